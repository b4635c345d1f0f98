"""The bundled model's tokenizer: byte-level BPE trained on its task until every word is one token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import tasks

END_OF_TEXT, TURN_START, TURN_END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# llama.cpp's "qwen2" pre-tokenizer splits with exactly this
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MAX_VOCABULARY = 2048  # a bound: training ends when there is nothing left to merge


def train_tokenizer(seed: int, n_texts: int = 4000) -> Tokenizer:
    """Train on conversations of the task; the result has all 256 bytes, so it encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    rng = Random(f"tokenizer-{seed}")
    # the template's markers split the text before the pre-tokenizer sees it
    texts = (
        piece
        for _ in range(n_texts)
        for turn in tasks.training_sample(rng, 512)
        for piece in (turn["role"], "\n", turn["content"])
    )
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def load_or_train(path: Path, seed: int) -> Tokenizer:
    """The tokenizer at ``path``, trained and written there first if need be."""
    if not path.exists():
        train_tokenizer(seed).save(str(path))
    return Tokenizer.from_file(str(path))


def answer_mask(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of a rendered conversation the assistant says, and which of them begin a value.

    An answer is ``Fact``, ``:``, a name, the two words of a value, ``.`` and the marker that ends the turn.
    """
    start, end = tokenizer.token_to_id(TURN_START), tokenizer.token_to_id(TURN_END)
    assistant, fact = tokenizer.token_to_id("assistant"), tokenizer.token_to_id("Fact")
    answers, values = [False] * len(tokens), [False] * len(tokens)
    for at, (token, role) in enumerate(zip(tokens, tokens[1:])):
        if token == start and role == assistant:
            stop = tokens.index(end, at) + 1
            answers[at + 3 : stop] = [True] * (stop - at - 3)
            if tokens[at + 3] == fact:
                values[at + 6] = True
    return answers, values
