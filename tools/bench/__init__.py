"""Benches: speed, memory and compile time of parts of the library, each a program."""
