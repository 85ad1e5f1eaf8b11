"""How trajectories are drawn: prefill once, decode many samples, schedule, parse, store."""
