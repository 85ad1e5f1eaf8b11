"""Meshes, logical axis rules, placing and fetching of arrays."""
