"""Measurement: ballots, statistics, tables, figures and pages for reading.

Everything here reads stored trajectories and recorded metrics; nothing is sampled again.
Importing the package imports none of its modules, so matplotlib and rich load only where used.
"""
