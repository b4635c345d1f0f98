"""The bundled model: a tiny qwen3 and its retention gates, trained from a seed.

``python -m retain_local.gates.bundled --out DIR`` repeats the whole of it: tokenizer, base model, gates, export.
"""
