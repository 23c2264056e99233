"""Costs of sending a request to an endpoint, one idea a file. Floor: `policies`, pure; lower is better."""
