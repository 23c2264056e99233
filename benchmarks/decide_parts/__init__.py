"""What `benchmarks.decide` is made of: the pools and prompts it decides on, and how it measures."""
