"""Reading a conversation, and asking each question of the cache as it was after it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..chat.generation import Generation, Sampling
from ..chat.template import ChatTemplate
from ..errors import RetainError
from ..llama import Llama
from ..tasks import Item
from .benchmarks.benchmark import BenchmarkItem, BenchmarkQuestion


@dataclass(frozen=True)
class Script:
    """An item in tokens.

    shared : read once, before any question.
    endings : for each question what follows, up to where the reply begins.
    """

    shared: list[int]
    endings: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return len(self.shared) + max(map(len, self.endings))

    def cut(self, n_most: int) -> Script:
        """The same script with prompts of at most so many tokens: what is shared loses its middle.

        Raises
        ------
        RetainError : a question alone is longer.
        """
        n_shared = len(self.shared) - max(0, self.longest - n_most)
        if n_shared < 1:
            raise RetainError(f"a question of {max(map(len, self.endings)):,} tokens does not fit in {n_most:,}")
        head = (n_shared + 1) // 2
        return Script(self.shared[:head] + self.shared[len(self.shared) - (n_shared - head) :], self.endings)


@dataclass(frozen=True)
class Replies:
    """What a model replied, and what it took.

    texts : one reply for each question.
    read_seconds : time to read what the questions share.
    n_written, write_seconds : tokens of the replies after each one's first, and the time that they took.
    n_cells : cells kept of what the questions share; bytes_archived : bytes of the archive then.
    """

    texts: list[str]
    read_seconds: float
    n_written: int
    write_seconds: float
    n_cells: int
    bytes_archived: int


def write_script(llm: Llama, template: ChatTemplate, item: Item | BenchmarkItem, is_chat: bool = True) -> Script:
    """The tokens that a chat would have made of an item.

    A conversation is shared up to the end of its last reply. Questions without one are first messages, and share what
    their tokens have in common.

    Parameters
    ----------
    is_chat : whether the text of a question without a conversation goes through the template.
    """
    if isinstance(item, Item):
        shared = _conversation(template, item)
        messages = item.messages
        return Script(shared, [template.next_turn([*messages, _user(question.text)]) for question in item.questions])
    prompts = [_prompt(llm, template, question, is_chat) for question in item.questions]
    # at least one token is left to read, for its logits
    n_shared = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
    return Script(prompts[0][:n_shared], [prompt[n_shared:] for prompt in prompts])


def _prompt(llm: Llama, template: ChatTemplate, question: BenchmarkQuestion, is_chat: bool) -> list[int]:
    if not is_chat:
        return llm.tokenize((question.text + question.reply_start).encode())
    prompt = template.first_turn([_user(question.text)])
    return prompt + template.reply_tokens(question.reply_start) if question.reply_start else prompt


def _conversation(template: ChatTemplate, item: Item) -> list[int]:
    tokens: list[int] = []
    messages = item.messages
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            tokens += template.reply_tokens(message["content"])
        else:
            tokens += template.next_turn(messages[: at + 1]) if tokens else template.first_turn(messages[: at + 1])
    return tokens


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def ask_all(llm: Llama, script: Script, max_tokens: int, stop: Sequence[str]) -> Replies:
    """Read what is shared with an empty cache and ask every question of what is left of it, greedily.

    Raises
    ------
    RetainError : a question does not fit the context.
    """
    llm.reset()
    start = time.perf_counter()
    llm.eval(script.shared)
    read_seconds = time.perf_counter() - start
    stats = llm.retention.stats()
    after_reading = llm.save_state() if len(script.endings) > 1 else None
    texts, n_written, write_seconds = [], 0, 0.0
    sampling = Sampling(temp=0, max_tokens=max_tokens)
    for at, ending in enumerate(script.endings):
        if at and after_reading is not None:
            llm.load_state(after_reading)
        if llm.options.prefill == "bounded":
            llm.eval(ending[:-1])
        generation = Generation(llm, script.shared + ending, sampling, stop, continues=True)
        texts.append("".join(generation).strip())
        n_written += max(0, len(generation.tokens) - 1)
        write_seconds += generation.generation_seconds
    return Replies(texts, read_seconds, n_written, write_seconds, stats.cells_kept, stats.bytes_archived)
