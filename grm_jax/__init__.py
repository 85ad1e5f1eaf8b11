"""Generative reward modelling with Self-Principled Critique Tuning (SPCT, arXiv 2504.02495) in JAX.

A comparison becomes a prompt, k trajectories (principles, critique, scores) are sampled from it,
and voting turns them into a verdict. The subpackages follow that path: `text` and `data` know
nothing of jax, `models` computes, `sampling` draws trajectories, `learning` changes parameters,
`voting` aggregates and `evaluation` measures. Programs are in `experiments/`, outside the package.

Importing this package imports no subpackage, and nothing in it needs grain or ml_collections
until a data pipeline or an experiment is used.
"""

__version__ = "0.1.0"
