"""The response cache: whole answers of requests that have one answer only, each tenant's own (`cache` of a tenant).

Floor: adapters. What may be kept and what it counts is decided in `policies.response_cache`.
"""
