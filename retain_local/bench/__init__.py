"""`retain-local bench`: how fast a model reads and writes at any depth, alone or beside stock llama.cpp."""
