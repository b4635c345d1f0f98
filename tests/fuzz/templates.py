"""Damaged chat templates: a conversation becomes tokens, or there is one line that says why not.

What takes too long is stopped after some seconds, which a few cases do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fuzz.mutate import mutate
from fuzz.run import main
from retain_local import Llama, RetainError
from retain_local.chat.template import ChatTemplate
from support.tiny_models import CHAT_TEMPLATE, TinyModel, write_tiny_model
from support.upstream import chat_templates, find_archive

MODEL = TinyModel("llama", n_layer=1, n_embd=32, n_head=2, n_head_kv=1, head_size=16, n_ff=32)
CONVERSATION = [
    {"role": "system", "content": "be a cat"},
    {"role": "user", "content": "h\u00e9llo </s>"},
    {"role": "assistant", "content": "<think>so</think> yes"},
    {"role": "user", "content": "and now?"},
]

# an expression put where one stands already
EXPRESSIONS = (
    *(
        "messages",
        "none",
        "1 / 0",
        "'a' * 10 ** 9",
        "10 ** 10 ** 3",
        "messages[9]",
        "range(99999) | list",
        "''.__class__",
    ),
    *(
        "raise_exception('a\\nb')",
        "messages | tojson",
        "namespace(a=1).a",
        "'\\ud800'",
        "loop",
        "self",
        "messages | map('x')",
    ),
)


class TemplateFuzzer:
    """Changes of llama.cpp's own templates, or of the tests' where those are not at hand."""

    def __init__(self, folder: Path) -> None:
        self.llm = Llama(write_tiny_model(folder / "model.gguf", MODEL), vocab_only=True)
        self.templates = [*chat_templates().values()] if find_archive().exists() else [CHAT_TEMPLATE]

    def case(self, rng: np.random.Generator) -> None:
        template = self.templates[rng.integers(len(self.templates))]
        if rng.integers(2):
            template = mutate(rng, template.encode()).decode("utf-8", errors="replace")
        else:
            parts = template.split("{{")
            at = int(rng.integers(len(parts)))
            expression = EXPRESSIONS[rng.integers(len(EXPRESSIONS))]
            template = "{{".join([*parts[:at], f" {expression} }}}}{parts[at]}", *parts[at + 1 :]])
        self.llm.metadata["tokenizer.chat_template"] = template
        try:
            chat = ChatTemplate(self.llm)
            opening = chat.first_turn(CONVERSATION[:2])
            start, stop = chat.system_range(CONVERSATION[:2])
            assert 0 <= start <= stop <= len(opening), (start, stop)
            chat.next_turn(CONVERSATION)
        except RetainError as error:
            assert "\n" not in str(error) and len(str(error)) < 500, error


if __name__ == "__main__":
    main(TemplateFuzzer)
