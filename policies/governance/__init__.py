"""What can be told of an answer without keeping it, and whether answers change: statistics, distributions, drift."""
