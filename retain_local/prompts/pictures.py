"""Pictures in messages, and the characters that stand for them while a chat template is rendered.

A template writes messages as text, and what is a picture is found in it again by its mark: a character of a private use
area that no message holds and no template changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RetainError
from ..vision.handlers import image_address, is_image
from ..vision.projector import ReadImage
from ..vision.source import read_image
from .control_tokens import message_texts

if TYPE_CHECKING:
    from ..llama import Llama

_FIRST_MARK, MOST_PICTURES = 0x100000, 0xFFFE

Pictures = Mapping[str, ReadImage]  # by their marks


def mark_of(number: int) -> str:
    """The mark of a picture, by its number in a conversation.

    Raises
    ------
    RetainError : no conversation can have so many.
    """
    if number >= MOST_PICTURES:
        raise RetainError(f"a conversation can have {MOST_PICTURES:,} pictures")
    return chr(_FIRST_MARK + number)


def check_texts(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise RetainError for messages with a character that could be a mark."""
    for text in message_texts(messages):
        for character in text:
            if ord(character) >= _FIRST_MARK:
                raise RetainError(
                    f"a conversation with pictures cannot hold the character U+{ord(character):X}; take it out of the text"
                )


def take_pictures(llm: Llama, messages: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Pictures]:
    """Messages with a mark for each picture, and what the model reads of the pictures.

    Raises
    ------
    RetainError : a picture cannot be read, or there is no projector for it.
    UsageError : a part that is to be a picture has no address.
    """
    contents = [message.get("content") for message in messages]
    if not any(is_image(part) for content in contents if isinstance(content, list) for part in content):
        return list(messages), {}
    taken: list[Mapping[str, Any]] = []
    pictures: dict[str, ReadImage] = {}
    for message, content in zip(messages, contents):
        parts = []
        for part in content if isinstance(content, list) else ():
            if is_image(part):
                address = image_address(part)
                mark = mark_of(len(pictures))
                pictures[mark] = llm.projector.read(read_image(address), shown(address))
                part = {"type": "text", "text": mark}
            else:
                check_texts([part])
            parts.append(part)
        if not isinstance(content, list):
            check_texts([message])
        taken.append({**message, "content": parts} if isinstance(content, list) else message)
    return taken, pictures


def shown(address: str) -> str:
    """The address of a picture in a message about it."""
    return "the picture in a data URL" if address[:5].lower() == "data:" else address


def check_written(text: str, pictures: Sequence[str]) -> None:
    """Raise RetainError where a template did not write each of these marks once."""
    if any(text.count(mark) != 1 for mark in pictures):
        raise RetainError("the model's chat template leaves pictures out of the text, or writes them several times")
