"""May a request enter now, and who goes next. Floor: `policies`, pure."""
