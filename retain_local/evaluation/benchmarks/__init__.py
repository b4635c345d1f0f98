"""Public benchmarks, from local files or the Hugging Face Hub, with their own prompts and metrics."""

from .registry import BENCHMARKS, load_benchmark

__all__ = ["BENCHMARKS", "load_benchmark"]
