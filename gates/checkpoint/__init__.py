"""Checkpoints of PyTorch, read without PyTorch and without running anything that they hold."""
