"""The ledger's rules: what a chain of records proves, what is lost when there is no room, what is kept for how long."""
