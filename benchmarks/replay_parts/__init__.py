"""The parts of `benchmarks.replay`. Floor: benchmarks; pure but for files, with a virtual clock."""
