"""Structured pruning: which channels matter least, how many may go, and cutting them out."""
