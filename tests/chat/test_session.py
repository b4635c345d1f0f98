"""A conversation: appended to, taken back, saved and gone on with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import TinyFiles
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
from retain_local.chat.session_file import read_session, write_session
from retain_local.errors import RetainError
from support.llamas import DEFAULTS, kept, load, text
from support.tiny_models import N_VOCAB

GREEDY = Sampling(temp=0, max_tokens=12)
SMALL = {"budget": 64, "buffer": 16}


def chat(tiny: TinyFiles, system: str = "be a cat", sampling: Sampling = GREEDY, **options) -> Session:
    return Session(load(tiny.model("llama"), gates=tiny.gates("llama"), **{**SMALL, **options}), system, sampling)


def say(session: Session, message: str) -> str:
    return "".join(session.send(message))


def state_of(session: Session):
    return session.messages, session.tokens, session.llm.n_tokens, kept(session.llm)


def test_a_turn_reads_only_what_is_new(tiny: TinyFiles) -> None:
    session = chat(tiny)
    say(session, text(200))
    before = len(session.tokens)
    say(session, "and now")
    # the token that ended the last reply was not read yet
    assert session.last.n_prompt == len(session.tokens) - len(session.last.tokens) - before + 1
    assert [message["role"] for message in session.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert session.llm.retention.stats().evictions > 0


def test_what_is_read_is_the_template(tiny: TinyFiles) -> None:
    session = chat(tiny, budget=1024)
    say(session, "abc")
    say(session, "def")
    replies = [message["content"] for message in session.messages if message["role"] == "assistant"]
    read = session.llm.detokenize(session.tokens, special=True).decode()
    expected = f"system: be a cat\nuser: abc\nassistant: {replies[0]}\nuser: def\nassistant: {replies[1]}"
    assert read.removeprefix("<s>").strip() == expected


def test_writing_a_reply_again(tiny: TinyFiles) -> None:
    session = chat(tiny)
    say(session, text(200))
    first = say(session, "and now")
    turns = len(session.messages)
    assert "".join(session.regenerate()) == first
    assert len(session.messages) == turns
    assert "".join(session.regenerate()) == first


def test_a_long_reply_is_written_again_after_reading_all_of_it(tiny: TinyFiles) -> None:
    session = chat(tiny, sampling=Sampling(temp=0, max_tokens=100))
    say(session, text(200))
    read: list[tuple[int, int]] = []
    session.llm.on_prompt = lambda done, total: read.append((done, total))
    assert list(session.regenerate())
    assert read[-1][1] == session.last.n_prompt - 1 > 200


def test_writing_again_draws_anew(tiny: TinyFiles) -> None:
    session = chat(tiny, sampling=Sampling(temp=2.0, top_p=1, min_p=0, max_tokens=30, seed=1))
    assert say(session, "abc") != "".join(session.regenerate())


def test_nothing_to_write_again(tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="no reply"):
        list(chat(tiny).regenerate())


def test_a_stopped_reply_stays(tiny: TinyFiles) -> None:
    session = chat(tiny)
    pieces = session.send("abc")
    begun = next(pieces) + next(pieces)
    pieces.close()
    assert session.messages[-1] == {"role": "assistant", "content": begun}
    assert say(session, "go on")


def test_a_turn_stopped_before_its_reply_is_taken_back(tiny: TinyFiles) -> None:
    session, untroubled = chat(tiny), chat(tiny)
    for each in (session, untroubled):
        say(each, text(150))
    before = session.messages

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    session.llm.on_prompt = stop
    with pytest.raises(KeyboardInterrupt):
        list(session.send(text(200, seed=1)))
    session.llm.on_prompt = None
    assert session.messages == before
    assert say(session, "abc") == say(untroubled, "abc") or session.llm.retention.stats().evictions


def test_a_message_that_is_too_long_is_taken_back(tiny: TinyFiles) -> None:
    session = chat(tiny, n_ctx=256)
    say(session, "abc")
    before = state_of(session)
    with pytest.raises(RetainError, match="the context 256"):
        say(session, text(300))
    assert state_of(session) == before


def test_restart(tiny: TinyFiles) -> None:
    session, fresh = chat(tiny), chat(tiny, system="be a dog")
    say(session, text(200))
    session.restart("be a dog")
    assert session.system == "be a dog" and session.llm.retention.stats().cells_kept == 0
    assert say(session, "abc") == say(fresh, "abc")


def test_the_system_message_is_pinned(tiny: TinyFiles) -> None:
    session = chat(tiny, pin_system=True, sinks=0)
    say(session, text(300))
    (pin,) = session.llm.retention.pins
    assert session.llm.detokenize(session.tokens[: pin.stop]).decode().endswith("be a cat")
    assert all(set(range(pin.stop)) <= set(positions) for positions in kept(session.llm))


def test_saved_and_gone_on_with(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny), chat(tiny, system="")
    say(session, text(200))
    session.save(tmp_path / "s")
    saved = state_of(session)
    expected = say(session, "and now")
    say(other, "something else")
    other.load(tmp_path / "s")
    assert state_of(other) == saved
    assert other.system == "be a cat" and say(other, "and now") == expected


def test_a_fresh_process_goes_on_with_the_same_reply(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny)
    say(session, text(200))
    session.save(tmp_path / "s")
    script = """
import sys
from retain_local import Llama
from retain_local.chat.generation import Sampling
from retain_local.chat.session import Session
model, gates, path, options = sys.argv[1:]
session = Session(Llama(model, gates=gates, **eval(options)), "", Sampling(temp=0, max_tokens=12))
session.load(path)
sys.stdout.write(repr("".join(session.send("and now"))))
"""
    arguments = [tiny.model("llama"), tiny.gates("llama"), tmp_path / "s", repr(DEFAULTS | SMALL)]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == repr(say(session, "and now"))


def test_a_loaded_reply_can_be_written_again(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny, budget=1024)
    reply = say(session, "abc")
    session.save(tmp_path / "s")
    session.restart("")
    session.load(tmp_path / "s")
    assert "".join(session.regenerate()) == reply


def test_the_budget_of_a_saved_session(tiny: TinyFiles, tmp_path: Path) -> None:
    session, smaller, larger = chat(tiny), chat(tiny, budget=32), chat(tiny, budget=128)
    say(session, text(200))
    session.save(tmp_path / "s")
    before = state_of(smaller)
    with pytest.raises(RetainError, match="cannot be loaded: its cache is refused: .*budget of 64"):
        smaller.load(tmp_path / "s")
    assert state_of(smaller) == before
    # where it fits it goes on with the budget that it had
    larger.load(tmp_path / "s")
    assert larger.llm.retention.budget == 64 and say(larger, "and now") == say(session, "and now")


def test_pins_are_saved(tiny: TinyFiles, tmp_path: Path) -> None:
    session, other = chat(tiny, sinks=0), chat(tiny, sinks=0)
    session.llm.retention.pin(30, 40)
    say(session, text(200))
    session.save(tmp_path / "s")
    other.llm.retention.pin(60, 62)
    other.load(tmp_path / "s")
    assert other.llm.retention.pins == ((30, 40),)
    say(other, text(200, seed=1))
    assert all(set(range(30, 40)) <= set(positions) for positions in kept(other.llm))


def test_nothing_to_save(tiny: TinyFiles, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="nothing to save"):
        chat(tiny).save(tmp_path / "s")


def test_sessions_that_are_refused(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny)
    say(session, text(200))
    session.save(tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-200])
    middle = len(whole) // 2
    (tmp_path / "altered").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (tmp_path / "foreign").write_bytes(b"something else")
    say(session, "and now")
    before = state_of(session)
    for name, message in [
        ("cut", "truncated or was altered"),
        ("altered", "truncated or was altered"),
        ("foreign", "not a saved session"),
        ("absent", "cannot be read"),
    ]:
        with pytest.raises(RetainError, match=message) as caught:
            session.load(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert state_of(session) == before


def test_sessions_of_other_models_and_caches(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny)
    say(session, text(200))
    session.save(tmp_path / "s")
    others = {
        "with another model": Session(load(tiny.model("qwen3"), policy="window", budget=64), "", GREEDY),
        "with K type f32": chat(tiny, type_k="f16"),
        "with gates": Session(load(tiny.model("llama"), policy="window", budget=64), "", GREEDY),
    }
    for message, other in others.items():
        say(other, "abc")
        before = state_of(other)
        with pytest.raises(RetainError, match=message):
            other.load(tmp_path / "s")
        assert state_of(other) == before


def test_files_that_are_gone_or_others_when_a_session_is_saved(tiny: TinyFiles, tmp_path: Path) -> None:
    """What counts is what the model was loaded from."""
    model, gates = tmp_path / "model.gguf", tmp_path / "gates.gguf"
    shutil.copy(tiny.model("llama"), model)
    shutil.copy(tiny.gates("llama"), gates)
    session = Session(load(model, gates=gates, **SMALL), sampling=GREEDY)
    say(session, text(100))
    model.unlink()
    gates.write_bytes(b"others")
    session.save(tmp_path / "saved")
    gates.unlink()
    session.load(tmp_path / "saved")
    other = chat(tiny)
    other.load(tmp_path / "saved")
    assert state_of(other) == state_of(session)


def test_a_copy_of_the_model_is_the_same_model(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny)
    say(session, "abc")
    session.save(tmp_path / "s")
    copy = Path(shutil.copy(tiny.model("llama"), tmp_path / "copy.gguf"))
    other = Session(load(copy, gates=tiny.gates("llama"), **SMALL), "", GREEDY)
    other.load(tmp_path / "s")
    assert other.messages == session.messages


def forge(path: Path, **changes: object) -> Path:
    """A saved session with other content and a right checksum."""
    write_session(path, replace(read_session(path), **changes))
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pins": [[0, 40], [80, 140]]}, "kept by sinks, recent window and pins, more than the budget of 64"),
        ({"tokens": [1, 2, N_VOCAB], "reply_length": 1}, "tokens that the model does not have"),
        ({"cached_tokens": [1, 2, 2**31 - 1]}, "tokens that the model does not have"),
        ({"tokens": [5] * 1025}, "holds 1,025 tokens, and the context 1,024"),
        ({"cached_tokens": [5] * 1025}, "holds 1,025 tokens, and the context 1,024"),
        ({"cached_tokens": [5] * 1000}, "its cache holds less than its 1,000 tokens"),
        ({"state": b""}, "its cache is refused"),
        ({"model": "x", "model_name": "a\n\x1b[2Jb"}, "another model, a .\\[2Jb$"),
        ({"cache": {"K type": "a\nb" * 1000}}, "with K type a ba b"),
        ({"cache": {}}, "with K type none; this chat has f32"),
    ],
)
def test_a_right_checksum_and_wrong_content(
    tiny: TinyFiles, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    session, untroubled = chat(tiny), chat(tiny)
    session.llm.retention.pin(20, 25)
    untroubled.llm.retention.pin(20, 25)
    for each in (session, untroubled):
        say(each, text(200))
    session.save(tmp_path / "s")
    before = state_of(session), session.llm.retention.pins, session.llm.retention.budget
    with pytest.raises(RetainError, match=message) as caught:
        session.load(forge(tmp_path / "s", **changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert (state_of(session), session.llm.retention.pins, session.llm.retention.budget) == before
    assert say(session, "and now") == say(untroubled, "and now")


def test_a_refused_session_leaves_an_empty_chat_empty(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny, budget=32)
    say(session, text(200))
    session.save(tmp_path / "s")
    other, untroubled = chat(tiny), chat(tiny)
    with pytest.raises(RetainError, match="more than the budget of 32"):
        other.load(forge(tmp_path / "s", pins=[[0, 60]]))
    assert other.llm.retention.budget == 64 and other.llm.retention.pins == () and other.tokens == []
    assert say(other, text(100)) == say(untroubled, text(100))


def test_more_cells_than_tokens_are_taken_out(tiny: TinyFiles, tmp_path: Path) -> None:
    session = chat(tiny, budget=1024)
    reply = say(session, "abc")
    session.save(tmp_path / "s")
    session.load(forge(tmp_path / "s", cached_tokens=session.tokens[:10]))
    assert "".join(session.regenerate()) == reply
