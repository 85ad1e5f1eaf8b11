"""Programs of the developers: benchmarks, conversions, checks. Run from the clone."""
