"""Performance, as ratios within one run: ``python -m benchmarks``. Never a gate."""
