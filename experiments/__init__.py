"""Programs, one readable main per file: `python -m experiments.NAME` from the clone.

A regular package, so that `tests/experiments/` on the path cannot be taken for it.
"""
