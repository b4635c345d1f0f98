"""A conversation with a model: its messages, its tokens, and the cache that holds them."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RetainError
from ..prompts.pictures import check_texts, mark_of
from ..prompts.system_message import system_text
from ..terminal.safe_text import safe_line
from ..vision.projector import ReadImage
from ..vision.source import read_image_file
from .generation import Generation, Sampling
from .sequence_state import (
    check_tokens,
    describe_archive,
    describe_cache,
    lacks_archive,
    restore_sequence,
    save_sequence,
)
from .session_file import SavedSession, read_session, write_session
from .template import ChatTemplate, RewrittenHistory

if TYPE_CHECKING:
    from ..llama import Llama


class Session:
    """A chat that is only ever appended to, so that each turn reads no more than what is new.

    Parameters
    ----------
    llm : Llama
    system : the system message, or "".
    sampling : Sampling

    Attributes
    ----------
    messages : list of dict
        The conversation with `role` and `content`, the system message included; a picture is a mark in the content.
    tokens : list of int
        The conversation as the model reads it.
    last : Generation or None
        The last reply, finished or interrupted.
    """

    def __init__(self, llm: Llama, system: str = "", sampling: Sampling | None = None) -> None:
        self.llm = llm
        self.sampling = sampling or Sampling()
        self.template = ChatTemplate(llm)
        # now, as the files may be others by the time that the conversation is saved
        self._model, self._cache = llm.model_file.fingerprint(), describe_cache(llm)
        self.last: Generation | None = None
        self.restart(system)

    @property
    def system(self) -> str:
        """The system message, or ""."""
        return system_text(self.messages)

    def restart(self, system: str) -> None:
        """Begin a new conversation."""
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        self.tokens: list[int] = []
        self._files: dict[str, bytes] = {}  # of the pictures, by their marks
        self._waiting = ""  # marks of the pictures that go with the next message
        self.template.pictures.clear()
        self._opening = 0  # messages that were rendered together, at the start of the tokens
        self._reply_length = 0
        self._ending = ""  # a stop string that ended the last reply, and is in the cache
        self.llm.reset()

    def attach(self, path: Path) -> ReadImage:
        """Read a picture, which goes with the next message; returns what the model reads of it.

        Raises
        ------
        RetainError : it cannot be read, or there is no projector for it.
        """
        content = read_image_file(path)
        mark, image = mark_of(len(self._files)), self.llm.projector.read(content, str(path))
        self._files[mark], self.template.pictures[mark] = content, image
        self._waiting += mark
        return image

    def send(self, text: str) -> Generator[str, None, None]:
        """Send a user message with the pictures that wait for it; iterate for the pieces of the reply.

        An interrupted reply stays as far as it came. Without any reply the message is taken back.

        Raises
        ------
        RetainError : the template refuses the conversation, or the context is full.
        """
        if self._files:
            check_texts([{"content": text}])
        marks = self._waiting
        messages = [*self.messages, {"role": "user", "content": marks + text}]
        prompt, opening = self._prompt(messages)
        try:
            yield from self._reply(messages, prompt, opening, self.sampling)
        finally:
            if len(self.messages) >= len(messages):  # else the message was taken back
                self._waiting = self._waiting.removeprefix(marks)

    def regenerate(self) -> Generator[str, None, None]:
        """Take the last reply back and write another one.

        Raises
        ------
        RetainError : there is no reply yet.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise RetainError("there is no reply to write again")
        messages, tokens = self.messages[:-1], self.tokens[: len(self.tokens) - self._reply_length]
        # the same seed would write the same reply
        yield from self._reply(messages, tokens, self._opening, replace(self.sampling, seed=None))

    def is_cut(self) -> bool:
        """Whether the last reply ended because the context did."""
        cut = self.last is not None and self.last.finish_reason == "length"
        return cut and len(self.tokens) >= self.llm.n_ctx()

    def go_on(self) -> Generator[str, None, None]:
        """Go on with the last reply where it was cut; iterate for the pieces that follow.

        Raises
        ------
        RetainError : the context is full.
        """
        generation = self.last = Generation(self.llm, self.tokens, self.sampling, self.template.stop, continues=True)
        try:
            yield from generation
        finally:
            reply = self.messages[-1]
            self.messages = [*self.messages[:-1], reply | {"content": reply["content"] + generation.text}]
            self.tokens = self.tokens + generation.tokens
            self._reply_length += len(generation.tokens)
            self._ending = generation.stopped_by

    def _prompt(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], int]:
        """The tokens up to the next reply, and how many messages were rendered together at their start."""
        if self.tokens:
            try:
                return self.tokens + self.template.next_turn(messages, self._ending), self._opening
            except RewrittenHistory:
                pass  # nothing can be appended: the conversation is read anew, as the template writes it now
        return self.template.first_turn(messages), len(messages)

    def _reply(
        self, messages: list[dict[str, str]], prompt: list[int], opening: int, sampling: Sampling
    ) -> Generator[str, None, None]:
        if self.llm.options.pin_system:
            system = self.template.system_range(messages[:opening])
            self.llm.retention.pin_system(*self.llm.positions(prompt, *system))
        generation = self.last = Generation(self.llm, prompt, sampling, self.template.stop, continues=True)
        try:
            yield from generation
        finally:
            if generation.tokens or generation.finish_reason:
                self.messages = [*messages, {"role": "assistant", "content": generation.text}]
                self.tokens, self._opening = prompt + generation.tokens, opening
                self._reply_length = len(generation.tokens)
                self._ending = generation.stopped_by

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the conversation and its cache to a file, all or nothing; returns its size in bytes.

        Raises
        ------
        RetainError : there is nothing to save, or the file cannot be written.
        """
        if not self.tokens:
            raise RetainError("there is nothing to save yet")
        saved = SavedSession(
            model=self._model,
            model_name=self.llm.model_file.name,
            cache=self._cache | describe_archive(self.llm),
            messages=self.messages,
            tokens=self.tokens,
            cached_tokens=self.llm.input_ids[: self.llm.n_tokens].tolist(),
            reply_length=self._reply_length,
            pins=[list(pin) for pin in self.llm.retention.own_pins],
            ending=self._ending,
            state=save_sequence(self.llm),
            pictures=self._sent_files(),
        )
        return write_session(path, saved)

    def _sent_files(self) -> list[bytes]:
        """The files of the pictures of the conversation, by the numbers of their marks; those that wait come last."""
        return [content for mark, content in self._files.items() if mark not in self._waiting]

    def load(self, path: str | os.PathLike[str]) -> str:
        """Go on with a saved conversation. A file that is refused leaves the running one as it is.

        Returns what is different here from where it was saved, in words; "" where nothing is.

        Raises
        ------
        RetainError : the file is damaged, of another model or cache, or does not fit.
        """
        saved = read_session(path)
        if saved.model != self._model:
            raise RetainError(f"{path} was saved with another model, {_shown(saved.model_name)}")
        for key, here in self._cache.items():
            there = saved.cache.get(key, "none")
            if there != here:
                raise RetainError(f"{path} was saved with {key} {_shown(there)}; this chat has {here}")
        if "archive" in saved.cache and not self.llm.retention.stats().bytes_archive:
            flags = " ".join(
                f"--{name.replace(' ', '-')} {_shown(saved.cache.get(name, ''))}"
                for name in ("archive", "archive type", "recall")
            )
            missing = (
                "this chat has none, as its budget covers the context; choose a smaller one with /budget"
                if lacks_archive(self.llm)
                else f"this chat has none; start it with {flags}"
            )
            raise RetainError(f"{path} holds an archive of evicted cells, and {missing}")
        try:
            pictures = self._read_pictures(saved.pictures)  # held until they are those of this session
            check_tokens(self.llm, saved.tokens)
            restore_sequence(self.llm, saved.state, saved.cached_tokens, [(start, stop) for start, stop in saved.pins])
        except RetainError as error:
            raise RetainError(f"{path} cannot be loaded: {error}") from None
        self._files, self._waiting = dict(zip(pictures, saved.pictures)), ""
        self.template.pictures.clear()
        self.template.pictures.update(pictures)
        self.messages, self.tokens = saved.messages, saved.tokens
        self._opening = [message["role"] for message in self.messages].index("assistant")
        self._reply_length, self._ending = saved.reply_length, saved.ending
        self.last = None
        stats = self.llm.retention.stats()
        if stats.bytes_archive and not stats.cells_archived and stats.cells_kept < stats.cells_seen:
            return "it was saved without an archive: what was evicted by then cannot be recalled"
        return ""

    def _read_pictures(self, files: Sequence[bytes]) -> dict[str, ReadImage]:
        return {mark_of(i): self.llm.projector.read(content, f"its picture {i + 1}") for i, content in enumerate(files)}


def _shown(text: str) -> str:
    """A name from a file, short and on one line."""
    line = safe_line(text)
    return line if len(line) <= 100 else f"{line[:100]}…"
