"""Turn a request's body into recordings and stays."""
