"""The sidecar: gates in a GGUF file beside the model, and gates as NumPy arrays."""
