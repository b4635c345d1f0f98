"""Models whose file has a chat template of a test's own."""

from __future__ import annotations

from pathlib import Path

import gguf

from support.tiny_models import TINY_MODELS, write_tiny_model


def model_with_template(path: Path, template: str) -> Path:
    """A tiny model whose file has this chat template."""
    write_tiny_model(path, TINY_MODELS["llama"])
    reader = gguf.GGUFReader(path)
    field = reader.fields["tokenizer.chat_template"]
    old = bytes(field.parts[field.data[0]])
    new = template.encode()
    assert len(new) <= len(old)
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new.ljust(len(old))))
    return path
