"""Chaos for several replicas: they die, stop, and are cut off from Redis and from each other, under load."""
