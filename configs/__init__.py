"""Reproductions as data: one ml_collections file each, read through `--config`."""
