"""The interface as pydantic models, as an OpenAPI document, and as a page."""
