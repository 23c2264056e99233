"""Who of several replicas decides for a pool, and what the next one has to know. Pure."""
