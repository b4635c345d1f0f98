"""Train the base model: copying until induction forms, then recall at growing lengths.

Sparse recall alone does not start: the model learns to copy runs of tokens first, on sequences that are dense in
copies. Recall rides along, and takes over once it works; the sequences grow only when the present length is mastered.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from . import tasks
from .checkpoint import load, save
from .net import Config, Qwen3
from .tokenizer import Tokenizer, answer_mask

TOKENS_PER_STEP = {96: 1024, 192: 2048, 384: 4096, 768: 4096, 1024: 4096}  # by length, in the order they come
LENGTHS = tuple(TOKENS_PER_STEP)
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
FINAL_STEPS = 500  # at mixed lengths, with the learning rate falling to zero
MASTERED = 0.95  # recall that lets the length grow
COPY_SHARE = {False: 0.7, True: 0.25}  # batches of copying, before and after recall has formed
ANSWER_WEIGHT, COPY_WEIGHT, FILLER_WEIGHT = 1.0, 1.0, 0.01
LOG_EVERY, SAVE_EVERY = 50, 100
MAX_STEPS = 20000


def copy_batch(rng: torch.Generator, tokens: Tensor, n_rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens whose second half copies runs of 2 to 8 tokens from random earlier places.

    Parameters
    ----------
    tokens : Tensor
        The tokens to draw from.

    Returns
    -------
    ids : Tensor
        [n_rows, length]
    weight : Tensor
        [n_rows, length], positive where a token follows from the run so far.
    """
    ids = tokens[torch.randint(len(tokens), (n_rows, length), generator=rng)]
    weight = torch.zeros(n_rows, length)
    for row in range(n_rows):
        at = length // 2
        while at < length:
            run = int(torch.randint(2, 9, (), generator=rng))
            start = int(torch.randint(0, at - run, (), generator=rng))
            run = min(run, length - at)
            ids[row, at : at + run] = ids[row, start : start + run]
            # nothing tells where a run comes from before its first token
            weight[row, at + 1 : at + run] = COPY_WEIGHT
            at += run
    return ids, weight


def recall_batch(rng: Random, tokenizer: Tokenizer, n_rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Conversations of the task, padded on the right.

    Returns
    -------
    ids, weight : Tensor
        [n_rows, length]; padding has weight 0.
    values : Tensor
        [n_rows, length], true at the first word of each value that an answer gives.
    """
    texts = [tasks.render(tasks.training_sample(rng, length)) for _ in range(n_rows)]
    ids = torch.zeros(n_rows, length, dtype=torch.long)
    weight, values = torch.zeros(n_rows, length), torch.zeros(n_rows, length, dtype=torch.bool)
    for row, encoding in enumerate(tokenizer.encode_batch(texts)):
        n = len(encoding.ids)
        answers, firsts = map(torch.tensor, answer_mask(tokenizer, encoding.ids))
        ids[row, :n] = torch.tensor(encoding.ids)
        weight[row, :n] = torch.where(answers, ANSWER_WEIGHT, FILLER_WEIGHT)
        values[row, :n] = firsts
    return ids, weight, values


def weighted_loss(model: Qwen3, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy, averaged by weight, and whether each token but the first was predicted right."""
    logits = model.logits(model(ids[:, :-1]))
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(ids[:, 1:])
    return (each * weight[:, 1:]).sum() / weight[:, 1:].sum(), logits.argmax(-1) == ids[:, 1:]


def learning_rate(step: int, final_start: int | None) -> float:
    """Warm-up, a plateau as long as the lengths grow, then a cosine to zero over the final steps."""
    if final_start is None:
        return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - final_start) / FINAL_STEPS))


def train_model(tokenizer: Tokenizer, work: Path, seed: int, log=print) -> Qwen3:
    """Train to the end, from the checkpoint in ``work`` if there is one.

    Each step draws its batch from the seed and its own number, so a resumed run sees what an unbroken one sees.
    """
    path = work / "model.pt"
    torch.manual_seed(seed)
    model = Qwen3(Config(n_vocab=tokenizer.get_vocab_size()))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    # recall and copying: running means of the accuracy at the present length
    state = {"step": 0, "stage": 0, "final_start": None, "recall": 0.0, "copy": 0.0, "formed": False, "tokens": 0}
    state |= load(path, model, optimizer)
    words = task_tokens(tokenizer, seed)
    while state["final_start"] is None or state["step"] < state["final_start"] + FINAL_STEPS:
        _train_step(model, optimizer, tokenizer, words, state, seed)
        if state["step"] % LOG_EVERY == 0:
            length = "mixed" if state["final_start"] is not None else LENGTHS[state["stage"]]
            log(
                f"model: step {state['step']}, {state['tokens'] / 1e6:.1f}M tokens, length {length}, "
                f"recall {state['recall']:.3f}, copy {state['copy']:.3f}, loss {state['loss']:.3f}"
            )
        if state["step"] % SAVE_EVERY == 0:
            save(path, model, optimizer, state)
        if state["final_start"] is None and state["step"] >= MAX_STEPS:
            raise RuntimeError(f"the model did not master length {LENGTHS[state['stage']]} in {MAX_STEPS} steps")
    save(path, model, optimizer, state)
    return model


def task_tokens(tokenizer: Tokenizer, seed: int) -> Tensor:
    """Tokens that the task uses: what a word is made of while the tokenizer merges it never shows up in a text."""
    rng = Random(f"words-{seed}")
    texts = [tasks.render(tasks.training_sample(rng, 512)) for _ in range(200)]
    return torch.tensor(sorted({token for encoding in tokenizer.encode_batch(texts) for token in encoding.ids}))


def _train_step(
    model: Qwen3, optimizer: torch.optim.Optimizer, tokenizer: Tokenizer, words: Tensor, state: dict, seed: int
) -> None:
    """One update; grows the length, or enters the final steps, when recall is good enough."""
    rng = Random(f"model-{seed}-{state['step']}")
    final = state["final_start"] is not None
    length = rng.choice(LENGTHS[1:]) if final else LENGTHS[state["stage"]]
    copying = not final and rng.random() < COPY_SHARE[state["formed"]]
    n_tokens = TOKENS_PER_STEP[length]
    if copying:
        length //= 2
    n_rows = n_tokens // length
    if copying:
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        ids, weight = copy_batch(generator, words, n_rows, length)
        scored = weight > 0
    else:
        ids, weight, scored = recall_batch(rng, tokenizer, n_rows, length)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(state["step"], state["final_start"])
    loss, right = weighted_loss(model, ids, weight)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    kind = "copy" if copying else "recall"
    accuracy = right[scored[:, 1:]].float().mean().item()
    state[kind] += 0.1 * (accuracy - state[kind])
    state |= {"step": state["step"] + 1, "tokens": state["tokens"] + ids.numel(), "loss": loss.item()}
    if final or state["recall"] < MASTERED:
        return
    state |= {"formed": True, "recall": 0.0}
    if state["stage"] + 1 < len(LENGTHS):
        state["stage"] += 1
    else:
        state["final_start"] = state["step"]
