"""The texts of an audit: files as tokens, cut into windows where asked."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RetainError, UsageError
from ..terminal.text_input import read_text
from ..vision.picture import Picture
from ..vision.projector import ReadImage

if TYPE_CHECKING:
    from ..llama import Llama

LEAST_WINDOW = 16
PICTURE_PIECE = "▦"  # what a page shows for a token of a picture


@dataclass(frozen=True)
class AuditText:
    """A text that is read from an empty cache: a file, or a window of one.

    file : as it was named.
    tokens : with the model's first token (BOS), where it has one.
    pieces : the text of each token, "" for special tokens; joined they are the text.
    line : where it begins in the file, from 1.
    pictures : those that come before the text, which are held for its tokens.
    """

    file: str
    tokens: list[int]
    pieces: list[str]
    line: int = 1
    pictures: tuple[Picture, ...] = ()

    def line_of(self, token: int) -> int:
        """Line of the file that a token begins in, from 1."""
        return self.line + "".join(self.pieces[:token]).count("\n")


def read_files(files: Sequence[Path]) -> dict[str, str]:
    """Contents of files by the names they were given, in order.

    Parameters
    ----------
    files : UTF-8; "-" is stdin.

    Raises
    ------
    UsageError : a file is named twice.
    RetainError : a file cannot be read, is not UTF-8, or empty.
    """
    contents: dict[str, str] = {}
    for file in files:
        if str(file) in contents:
            raise UsageError(f"{file} is named twice")
        contents[str(file)] = read_text(file)
        if not contents[str(file)].strip():
            raise RetainError(f"{file} is empty: there is nothing to predict")
    return contents


def make_texts(
    llm: Llama,
    contents: dict[str, str],
    window: int | None,
    n_ctx: int | None = None,
    images: Sequence[ReadImage] = (),
) -> list[AuditText]:
    """Files as texts, in order.

    Parameters
    ----------
    llm : gives the vocabulary. What looks like a special token in a file is plain text.
    contents : from `read_files`.
    window : cut each file into as few windows of nearly equal length, at most so many tokens, as it takes; None: leave
        it whole.
    n_ctx : of the caches that will read them; None: that of `llm`.
    images : what the model reads of pictures, which come before each text, and each window of one.

    Raises
    ------
    UsageError : the window does not fit the context.
    RetainError : a file is too short, longer than the context, or not of this vocabulary.
    """
    n_ctx = n_ctx or llm.n_ctx()
    if window is not None and not LEAST_WINDOW <= window <= n_ctx:
        raise UsageError(f"a window of {window} tokens is out of range: {LEAST_WINDOW} to {n_ctx}, the context")
    texts: list[AuditText] = []
    for file, content in contents.items():
        text, n_head = _tokenized(llm, file, content, images)
        if window is not None and window < n_head + LEAST_WINDOW:
            raise UsageError(f"a window of {window} tokens leaves no room for text beside {n_head} of pictures")
        if window is not None:
            texts += _windows(text, window, n_head)
        elif len(text.tokens) <= n_ctx:
            texts.append(text)
        else:
            raise RetainError(
                f"{file} has {len(text.tokens):,} tokens, more than the context of {n_ctx:,}: cut it with"
                f" --window {n_ctx}, or use a longer context (--ctx {len(text.tokens)}) if the model can read that far"
            )
    return texts


def _tokenized(llm: Llama, file: str, content: str, images: Sequence[ReadImage]) -> tuple[AuditText, int]:
    """A file as a text, and how many tokens at its start each window of it begins with."""
    try:
        tokens = llm.tokenize(content.encode(), add_bos=True, special=False)
    except RetainError as error:
        raise RetainError(f"{file}: {error}") from None
    if len(tokens) < 2:
        raise RetainError(f"{file} has one token: there is nothing to predict")
    n_head = int(tokens[0] == llm.token_bos())
    before = [token for image in images for token in image.tokens]
    pieces = token_texts(llm, tokens)
    shown = [PICTURE_PIECE if token < 0 else "" for token in before]
    text = AuditText(
        file,
        [*tokens[:n_head], *before, *tokens[n_head:]],
        [*pieces[:n_head], *shown, *pieces[n_head:]],
        pictures=tuple(picture for image in images for picture in image.pictures),
    )
    return text, n_head + len(before)


def _windows(text: AuditText, window: int, head: int) -> list[AuditText]:
    """Each window begins with the first `head` tokens of the text: a BOS where it has one, and pictures."""
    body = len(text.tokens) - head
    count = -(-body // (window - head))
    cuts = [head + body * i // count for i in range(count + 1)]
    return [
        AuditText(
            text.file,
            text.tokens[:head] + text.tokens[start:stop],
            text.pieces[:head] + text.pieces[start:stop],
            text.line_of(start),
            text.pictures,
        )
        for start, stop in zip(cuts, cuts[1:])
    ]


def token_texts(llm: Llama, tokens: Sequence[int], special: bool = False) -> list[str]:
    """Text of each token, "" for special ones unless they are wanted.

    A character whose bytes are spread over several tokens is the text of the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(llm.detokenize([token], special=special)) for token in tokens]


def token_text(llm: Llama, token: int) -> str:
    """Text of one token of the vocabulary, a special one's too."""
    return llm.detokenize([token], special=True).decode("utf-8", errors="replace")
