"""A ledger that must add up: 10,000 requests, while gateways and their database are killed: `make chaos-ledger`."""
