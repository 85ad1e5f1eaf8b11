"""The trained baselines of the paper: pairs (Bradley-Terry, PairRM), CLoud, and judges."""
