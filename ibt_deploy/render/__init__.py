"""Views of predictions: text and tables, CSV, pictures. JSON is the contract; nothing here adds to it."""
