"""HTTP: the application, the middleware of every request, limits, problems, metrics and pages."""
