"""From the messages of a chat to the tokens that a model reads; `llama` and `chat` build on it."""
