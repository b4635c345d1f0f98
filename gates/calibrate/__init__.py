"""Gates from a GGUF alone: what the cells of a text turn out to be worth, and a regression that foresees it."""
