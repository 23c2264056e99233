"""Several replicas, one brain: the leases in a store, the journal, and the line between replicas."""
