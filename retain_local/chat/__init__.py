"""A conversation with a model: its text, its file, one reply, and the screen of `chat` and `run`."""
