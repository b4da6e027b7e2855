"""HTTP: the application, what every request passes through, limits, problems, figures and pages."""
