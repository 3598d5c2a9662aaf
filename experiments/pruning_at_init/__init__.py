"""Pruning at initialization: SNIP, GraSP, FORCE and SynFlow beside random and magnitude."""
