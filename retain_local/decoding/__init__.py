"""Evaluating and generating over a cache that evicts: what is reused exactly, where a text ends, and what a caller must not do."""
