"""Parts of `benchmarks.stages`."""
