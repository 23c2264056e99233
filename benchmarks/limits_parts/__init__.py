"""The parts of `benchmarks.limits`: replicas on one Redis, and clients that hammer them."""
