"""A conversation with pictures: sent with a message, taken back, saved and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retain_local.chat.context_size import change_context
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
from retain_local.chat.session_file import MAGIC, MAGIC_WITH_PICTURES, read_session, write_session
from retain_local.errors import RetainError
from retain_local.prompts.pictures import mark_of
from support.llamas import kept, load, text
from support.pictures import write_png
from support.tiny_models import CHAT_TEMPLATE, write_tiny_model
from support.tiny_vision import TINY_VISION, TinyProjector, TinyVision, write_tiny_projector, write_tiny_vision

GREEDY = Sampling(temp=0, max_tokens=12)
SMALL = {"budget": 64, "n_ubatch": 16, "policy": "window"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    write_tiny_vision(folder, TINY_VISION["qwen2vl"])
    for seed in range(2):
        write_png(folder / f"{seed}.png", 300, 180, seed)
    return folder


def chat(folder: Path, **options) -> Session:
    return Session(load(next(folder.glob("[!m]*.gguf")), **SMALL | options), "be a cat", GREEDY)


def say(session: Session, message: str, *pictures: Path) -> str:
    for path in pictures:
        session.attach(path)
    return "".join(session.send(message))


def test_a_picture_goes_with_the_next_message_alone(folder: Path) -> None:
    session = chat(folder, policy="none", budget=None)
    session.attach(folder / "0.png")
    say(session, "what is it")
    first = session.llm.layout.placed
    say(session, "and now")
    assert [one.picture for one in session.llm.layout.placed] == [one.picture for one in first]
    assert session.last.n_prompt < 30  # the picture is not read again
    say(session, "and these", folder / "1.png", folder / "0.png")
    assert len(session.llm.layout.placed) == 3
    assert session.messages[1]["content"] == f"{mark_of(0)}what is it"
    session.llm.close()


def test_it_is_the_prompt_of_the_api(folder: Path) -> None:
    """A chat's tokens are those of `create_chat_completion` for the same messages."""
    session = chat(folder, policy="none", budget=None)
    say(session, "what is it", folder / "0.png", folder / "1.png")
    llm = session.llm
    content = [
        *({"type": "image_url", "image_url": str(folder / f"{i}.png")} for i in range(2)),
        {"type": "text", "text": "what is it"},
    ]
    messages = [{"role": "system", "content": "be a cat"}, {"role": "user", "content": content}]
    tokens = list(session.tokens)
    llm.create_chat_completion(messages, max_tokens=12, temperature=0, repeat_penalty=1.0)
    assert llm.input_ids[: llm.n_tokens].tolist() == tokens[: llm.n_tokens]
    llm.close()


def test_a_template_for_text_alone_takes_pictures_too(folder: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model.gguf", TINY_VISION["qwen2vl"].text, chat_template=CHAT_TEMPLATE)
    llm = load(model, policy="none", mmproj=next(folder.glob("mmproj*")))
    content = [{"type": "image_url", "image_url": str(folder / "0.png")}, {"type": "text", "text": "what is it"}]
    llm.create_chat_completion([{"role": "user", "content": content}], max_tokens=1)
    assert len(llm.layout.placed) == 1
    llm.close()
    silent = write_tiny_model(tmp_path / "silent.gguf", TINY_VISION["qwen2vl"].text, chat_template="assistant: ")
    llm = load(silent, policy="none", mmproj=next(folder.glob("mmproj*")))
    with pytest.raises(RetainError, match="leaves pictures out"):
        llm.create_chat_completion([{"role": "user", "content": content}], max_tokens=1)
    llm.close()


SYSTEM_LAST = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{% if loop.last and messages[0]['role'] == 'system' %}{{ 'rule: ' + messages[0]['content'] + '\n' }}{% endif %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}{% endif %}{% endfor %}{{ 'assistant: ' }}"
)


def test_a_system_message_behind_a_picture_is_pinned(folder: Path, tmp_path: Path) -> None:
    """Pins are of positions, which are fewer than tokens behind a picture."""
    model = write_tiny_model(tmp_path / "model.gguf", TINY_VISION["qwen2vl"].text, chat_template=SYSTEM_LAST)
    llm = load(model, **SMALL, mmproj=next(folder.glob("mmproj*")), pin_system=True)
    content = [{"type": "image_url", "image_url": str(folder / "0.png")}, {"type": "text", "text": "what"}]
    messages = [
        {"role": "system", "content": "quack"},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "a duck"},
        {"role": "user", "content": text(90)},
    ]
    llm.create_chat_completion(messages, max_tokens=30, temperature=0)
    (pin,) = llm.retention.pins
    layout = llm.layout
    written = llm.input_ids[layout.token(pin.start) : layout.token(pin.stop)].tolist()
    assert "quack" in llm.detokenize(written).decode() and pin.start < layout.token(pin.start)
    assert all(set(range(*pin)) <= set(positions) for positions in kept(llm))
    llm.close()


def test_a_refused_picture_leaves_the_conversation(folder: Path, tmp_path: Path) -> None:
    session = chat(folder)
    say(session, "hello")
    before = session.tokens
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(RetainError, match="is no picture"):
        session.attach(tmp_path / "text.png")
    assert session.tokens == before
    with pytest.raises(RetainError, match=r"cannot hold the character U\+100000"):
        say(session, mark_of(0), folder / "0.png")
    say(session, "what is it")
    assert len(session.llm.layout.placed) == 1  # it waited for a message that could be sent
    session.llm.close()


def test_writing_a_reply_about_a_picture_again(folder: Path) -> None:
    """The cache evicted meanwhile, so that the picture is read again, as a picture."""
    session = chat(folder)
    first = say(session, text(80), folder / "0.png")
    assert session.llm.retention.stats().evictions > 0
    assert "".join(session.regenerate()) == first
    session.llm.close()


def test_a_saved_conversation_goes_on_the_same(folder: Path, tmp_path: Path) -> None:
    session = chat(folder)
    say(session, "what is it", folder / "0.png")
    say(session, text(60))
    say(session, "and this", folder / "1.png")
    session.attach(folder / "1.png")  # not sent yet, and not saved
    session.save(tmp_path / "s")
    session._waiting = ""
    expected = say(session, "so")

    other = chat(folder)
    other.load(tmp_path / "s")
    assert say(other, "so") == expected
    assert kept(other.llm) == kept(session.llm)
    # what a larger context, a change of mind and one more picture need is there as well
    change_context(other.llm, n_ctx=2048)
    assert "".join(other.regenerate()) == "".join(session.regenerate())
    say(other, "and", folder / "0.png")
    assert len(other.llm.layout.placed) == 3
    for each in (session, other):
        each.llm.close()


def test_a_file_is_of_version_2_only_with_pictures(folder: Path, tmp_path: Path) -> None:
    session = chat(folder)
    say(session, "hello")
    session.save(tmp_path / "text")
    assert (tmp_path / "text").read_bytes().startswith(MAGIC)
    say(session, "what is it", folder / "0.png")
    session.save(tmp_path / "picture")
    assert (tmp_path / "picture").read_bytes().startswith(MAGIC_WITH_PICTURES)
    assert read_session(tmp_path / "picture").pictures == [(folder / "0.png").read_bytes()]
    session.llm.close()


def test_sessions_whose_pictures_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    session = chat(folder)
    say(session, "what is it", folder / "0.png")
    path = tmp_path / "s"
    session.save(path)
    saved = read_session(path)

    vision = TinyVision(TINY_VISION["qwen2vl"].text, TinyProjector("qwen2vl_merger", seed=1))
    other = chat(folder, mmproj=write_tiny_projector(tmp_path / "mmproj-other.gguf", vision))
    say(other, "hello")
    before = other.messages, other.tokens, kept(other.llm)
    wrong = {
        "read by another projector": saved,
        "its picture 1 cannot be read as a picture": replace(saved, pictures=[b"\x89PNG\r\n\x1a\n" + bytes(40)]),
    }
    for reason, content in wrong.items():
        write_session(path, content)
        with pytest.raises(RetainError, match=reason):
            other.load(path)
    raw = path.read_bytes()
    for damaged in (raw[:-1], raw[: len(raw) - 40] + bytes([raw[-40] ^ 1]) + raw[-39:], raw[:100]):
        path.write_bytes(damaged)
        with pytest.raises(RetainError, match="truncated or was altered"):
            other.load(path)
    write_session(path, replace(saved, pictures=[]))  # tokens of pictures, and none that they are of
    with pytest.raises(RetainError, match="damaged"):
        other.load(path)
    assert (other.messages, other.tokens, kept(other.llm)) == before
    assert json.dumps(saved.messages)
    for each in (session, other):
        each.llm.close()
