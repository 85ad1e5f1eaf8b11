"""A GRM in use: comparisons in, judgements out; and the callables that trainers want."""
