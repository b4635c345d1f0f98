"""Train the base model: copying until induction forms, then the tasks at growing lengths.

Sparse recall alone does not start: the model learns to copy runs of tokens first, on sequences that are dense in
copies. The tasks ride along, and take over once recall works; the sequences grow when the present length is mastered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3ForCausalLM

from ...tasks.item import ACKNOWLEDGEMENT
from .base_model import base_config, new_model
from .checkpoint import load, save
from .mixture import training_conversation
from .tokenizer import Tokenizer, encode_conversation

TOKENS_PER_STEP = {96: 1024, 192: 2048, 384: 4096, 768: 4096, 1024: 4096}  # by length, in the order they come
LENGTHS = tuple(TOKENS_PER_STEP)
CONTEXT = LENGTHS[-1]
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 100
FINAL_SHARE = 0.35  # of all tokens, at mixed lengths, with the learning rate falling to zero
MASTERED = 0.9  # answers without a wrong token that let the length grow
FORMED = 0.8  # the same at the first length: from here on recall needs less copying beside it
COPY_SHARE = {False: 0.7, True: 0.1}  # batches of copying, before and after recall has formed
TEXT_SHARE = 0.08  # batches of plain text once recall has formed
ANSWER_WEIGHT, SMALL_TALK_WEIGHT, FILLER_WEIGHT = 1.0, 0.05, 0.01
LOG_EVERY, SAVE_EVERY = 50, 100


@dataclass
class Batch:
    """Tokens [n_rows, n] with a loss weight for each, and the answers in them: row, tokens and kind."""

    ids: Tensor
    weight: Tensor
    answers: list[tuple[int, range, str]]


def copy_batch(rng: torch.Generator, tokens: Tensor, n_rows: int, length: int) -> Batch:
    """Random ones of ``tokens``; the second half of each row copies runs of 2 to 8 from random earlier places.

    The weight is positive where a token follows from the run so far: nothing tells where a run comes from before its
    first token.
    """
    ids = tokens[torch.randint(len(tokens), (n_rows, length), generator=rng)]
    batch = Batch(ids, torch.zeros(n_rows, length), [])
    for row in range(n_rows):
        at = length // 2
        while at < length:
            run = int(torch.randint(2, 9, (), generator=rng))
            start = int(torch.randint(0, at - run, (), generator=rng))
            run = min(run, length - at)
            ids[row, at : at + run] = ids[row, start : start + run]
            if run > 1:
                batch.weight[row, at + 1 : at + run] = 1.0
                batch.answers.append((row, range(at + 1, at + run), "copy"))
            at += run
    return batch


def task_batch(rng: Random, tokenizer: Tokenizer, n_rows: int, length: int) -> Batch:
    """Conversations, padded on the right; padding has weight 0."""
    batch = Batch(torch.zeros(n_rows, length, dtype=torch.long), torch.zeros(n_rows, length), [])
    for row in range(n_rows):
        conversation = training_conversation(rng, length)
        tokens, spans = encode_conversation(tokenizer, conversation.turns)
        n = min(len(tokens), length)
        batch.ids[row, :n] = torch.tensor(tokens[:n])
        batch.weight[row, :n] = FILLER_WEIGHT
        for (role, content), kind, span in zip(conversation.turns, conversation.kinds, spans):
            if kind and span.stop <= length:
                batch.weight[row, span.start : span.stop] = ANSWER_WEIGHT
                batch.answers.append((row, span, kind))
            elif role == "assistant" and content != ACKNOWLEDGEMENT:
                batch.weight[row, span.start : min(span.stop, length)] = SMALL_TALK_WEIGHT
    return batch


def text_batch(rng: Random, text: Tensor, n_rows: int, length: int) -> Batch:
    """Rows of plain text from random places."""
    starts = [rng.randrange(len(text) - length) for _ in range(n_rows)]
    return Batch(torch.stack([text[start : start + length] for start in starts]), torch.ones(n_rows, length), [])


def weighted_loss(model: Qwen3ForCausalLM, batch: Batch) -> tuple[Tensor, list[tuple[str, bool]]]:
    """Next-token cross-entropy, averaged by weight; and for each answer its kind and whether every token was right."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids[:, :-1]).last_hidden_state
        weight, target = batch.weight[:, 1:], batch.ids[:, 1:]
        weighed = weight > 0
        logits = model.lm_head(hidden[weighed])
    each = F.cross_entropy(logits.float(), target[weighed], reduction="none")
    right = torch.ones_like(batch.ids, dtype=torch.bool)
    right[:, 1:][weighed] = logits.argmax(-1) == target[weighed]
    exact = [(kind, bool(right[row, span.start : span.stop].all())) for row, span, kind in batch.answers]
    return (each * weight[weighed]).sum() / weight.sum(), exact


class BaseTraining:
    """The training of the base model, which can be stopped and resumed.

    Each step draws its batch from the seed and its own number, so a resumed run sees what an unbroken one sees.

    Parameters
    ----------
    tokenizer : Tokenizer
    text : Tensor
        Tokens of plain text; may be empty.
    n_tokens : int
        To train on, all in all.
    """

    def __init__(self, tokenizer: Tokenizer, text: Tensor, work: Path, seed: int, n_tokens: int):
        torch.manual_seed(seed)
        self.tokenizer, self.text, self.path = tokenizer, text, work / "model.pt"
        self.seed, self.n_tokens = seed, n_tokens
        self.model = new_model(base_config(tokenizer.get_vocab_size(), CONTEXT))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
        self.words = task_tokens(tokenizer, seed)
        # right: running means of exact answers by kind; recall: the same over all kinds at the present length
        self.state: dict[str, Any] = {
            "step": 0,
            "tokens": 0,
            "stage": 0,
            "recall": 0.0,
            "formed": False,
            "right": {},
            "loss": 0.0,
        }
        self.state |= load(self.path, self.model, self.optimizer)

    @property
    def progress(self) -> float:
        return self.state["tokens"] / self.n_tokens

    @property
    def final(self) -> bool:
        return self.progress >= 1 - FINAL_SHARE

    def run(self, log=print) -> Qwen3ForCausalLM:
        """Train to the end."""
        while self.progress < 1:
            self._step()
            if self.state["step"] % LOG_EVERY == 0:
                log(self._describe())
            if self.state["step"] % SAVE_EVERY == 0:
                save(self.path, self.model, self.optimizer, self.state)
        save(self.path, self.model, self.optimizer, self.state)
        return self.model.eval()

    def _learning_rate(self) -> float:
        if self.final:
            return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (1 - (1 - self.progress) / FINAL_SHARE)))
        return LEARNING_RATE * min(1.0, (self.state["step"] + 1) / WARMUP_STEPS)

    def _draw(self, rng: Random) -> Batch:
        formed = self.state["formed"]
        length = rng.choice(LENGTHS[2:]) if self.final else LENGTHS[self.state["stage"]]
        n_rows = TOKENS_PER_STEP[length] // length
        if rng.random() < COPY_SHARE[formed]:
            generator = torch.Generator().manual_seed(rng.getrandbits(60))
            return copy_batch(generator, self.words, 2 * n_rows, length // 2)
        if formed and len(self.text) and rng.random() < TEXT_SHARE:
            return text_batch(rng, self.text, n_rows, length)
        return task_batch(rng, self.tokenizer, n_rows, length)

    def _step(self) -> None:
        batch = self._draw(Random(f"model-{self.seed}-{self.state['step']}"))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss, exact = weighted_loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.state["step"] += 1
        self.state["tokens"] += batch.ids.numel()
        self.state["loss"] = loss.item()
        self._note(exact)

    def _note(self, exact: list[tuple[str, bool]]) -> None:
        """Keep the running means; let the length grow when recall is good enough."""
        state = self.state
        for kind, right in exact:
            before = state["right"].get(kind, 0.0)
            state["right"][kind] = before + 0.02 * (right - before)
        asked = [right for kind, right in exact if kind != "copy"]
        if not asked:
            return
        state["recall"] += 0.1 * (sum(asked) / len(asked) - state["recall"])
        if state["recall"] > FORMED:
            state["formed"] = True
        if state["recall"] > MASTERED and state["stage"] + 1 < len(LENGTHS) and not self.final:
            state["stage"] += 1
            state["recall"] = 0.0

    def _describe(self) -> str:
        state = self.state
        length = "mixed" if self.final else LENGTHS[state["stage"]]
        kinds = ", ".join(f"{kind} {right:.2f}" for kind, right in sorted(state["right"].items()))
        return (
            f"model: step {state['step']}, {state['tokens'] / 1e6:.1f}M of {self.n_tokens / 1e6:.0f}M tokens, "
            f"length {length}, loss {state['loss']:.3f}, recall {state['recall']:.3f} ({kinds})"
        )


def task_tokens(tokenizer: Tokenizer, seed: int) -> Tensor:
    """Tokens that the tasks use: what a word is made of while the tokenizer merges it never shows up in a text."""
    rng = Random(f"words-{seed}")
    seen: set[int] = set()
    for _ in range(200):
        seen.update(encode_conversation(tokenizer, training_conversation(rng, 512).turns)[0])
    return torch.tensor(sorted(seen))
