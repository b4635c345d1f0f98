"""llama.cpp's own server over a cache of fixed size: building it, its command line, starting and stopping it.

from retain_local.server import Server

with Server("model.gguf", budget=2048) as server:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
"""

from .process import Server

__all__ = ["Server"]
