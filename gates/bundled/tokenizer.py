"""The bundled model's tokenizer: byte-level BPE trained on its tasks until every word of theirs is one token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ...files import write_text
from .mixture import training_conversation

END_OF_TEXT, TURN_START, TURN_END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# llama.cpp's "qwen2" pre-tokenizer splits with exactly this
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

VOCABULARY = 2048 - len(SPECIALS)
N_CONVERSATIONS, N_CHARACTERS = 8000, 400_000  # of the tasks, and of the plain text, whose words may stay in pieces


def new_tokenizer(model: models.BPE) -> Tokenizer:
    """A byte-level tokenizer that splits texts as llama.cpp does."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(seed: int, text: str) -> Tokenizer:
    """Train on conversations of the tasks and the beginning of a text; all 256 bytes are in it, so it encodes anything."""
    tokenizer = new_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(seed, text), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def _training_texts(seed: int, text: str) -> Iterator[str]:
    rng = Random(f"tokenizer-{seed}")
    for _ in range(N_CONVERSATIONS):
        for role, content in training_conversation(rng, 512).turns:
            # the template's markers split the text before the pre-tokenizer sees it
            yield from (role, "\n", content)
    yield text[:N_CHARACTERS]


def load_or_train(path: Path, seed: int, text: str) -> Tokenizer:
    """The tokenizer at ``path``, trained and written there first if need be."""
    if not path.exists():
        write_text(path, train_tokenizer(seed, text).to_str(pretty=True))
    return Tokenizer.from_file(str(path))


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer as transformers saves and loads it, chat template included."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode_conversation(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[range]]:
    """Tokens of the rendered conversation, and where in them each turn's content and end marker are."""
    vocabulary = tokenizer.get_vocab()
    start, end = vocabulary[TURN_START], vocabulary[TURN_END]
    newline = tokenizer.encode("\n").ids
    ids: list[int] = []
    spans = []
    contents = tokenizer.encode_batch([content for _, content in turns])
    for (role, _), content in zip(turns, contents):
        ids += [start, *tokenizer.encode(role).ids, *newline]
        spans.append(range(len(ids), len(ids) + len(content.ids) + 1))
        ids += [*content.ids, end, *newline]
    return ids, spans
