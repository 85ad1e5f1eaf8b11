"""Where comparisons come from, and where the trajectories drawn on them are kept. No jax here."""
