"""From a request's body to recordings and stays."""
