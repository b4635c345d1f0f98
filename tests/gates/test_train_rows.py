"""Training gates: documents from files, and rows of tokens made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retain_local.errors import RetainError
from retain_local.gates.train.documents import read_documents
from retain_local.gates.train.rows import Rows, make_batch
from support.tiny_bases import tiny_tokenizer

CHAT = [
    {"role": "user", "content": "one two"},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "four"},
    {"role": "assistant", "content": "five six"},
]


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_rows(documents, context=40, n_needed=1000, seed=0, assistant_only=False, tokenizer=None) -> Rows:
    return Rows(documents, tokenizer or tiny_tokenizer(), context, n_needed, seed, assistant_only)


def texts(rows: Rows) -> list[str]:
    return sorted("".join(tiny_tokenizer().decode([t]) for t in piece.tokens) for row in rows.rows for piece in row)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("a whole book")
    assert list(read_documents(str(path))) == ["a whole book"]


def test_lines_of_texts_and_conversations(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"text": "plain"}, {"messages": CHAT, "id": 3})
    assert list(read_documents(str(path))) == ["plain", CHAT]


def test_what_marks_a_text_file_as_utf_8_is_no_part_of_it(tmp_path: Path) -> None:
    lines, book = tmp_path / "data.jsonl", tmp_path / "book.txt"
    lines.write_text('{"text": "plain"}\n', encoding="utf-8-sig")
    book.write_text("a whole book", encoding="utf-8-sig")
    assert [*read_documents(str(lines)), *read_documents(str(book))] == ["plain", "a whole book"]


def test_folder_of_a_data_set(tmp_path: Path) -> None:
    """Read by the package that reads data sets of the Hub."""
    write_lines(tmp_path / "train.jsonl", {"messages": CHAT}, {"messages": CHAT[:2]})
    assert list(read_documents(str(tmp_path))) == [CHAT, CHAT[:2]]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.jsonl", b'{"text": "a"}\nnot json\n', "line 2 is not JSON"),
        ("x.jsonl", b'{"texts": "a"}\n', "line 1 has neither 'messages'"),
        ("x.jsonl", b"[1]\n", "line 1 has neither"),
        ("x.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "cut \\ud83d off"}\n', r"line 2 holds half of a character \(\\ud83d\)"),
        ("x.jsonl", b'{"messages": [{"role": "user", "content": "\\udc00"}]}\n', "line 1 holds half of a character"),
        ("x.jsonl", b'{"messages": [{"role": "user"}]}\n', "a message is not an object with the texts"),
        ("x.txt", b"\xff\xfe", "not text in UTF-8"),
        ("x.parquet", b"PAR1", "a file of data ends in"),
    ],
)
def test_data_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RetainError, match=message):
        list(read_documents(str(path)))


@pytest.mark.parametrize("source", ["absent.txt", "absent.jsonl", "no such/data set/here"])
def test_data_that_are_not_there(source: str) -> None:
    with pytest.raises(RetainError, match="No such file|neither a file"):
        list(read_documents(source))


def test_packing_loses_nothing() -> None:
    documents = ["x" * n for n in (5, 39, 12, 40, 17, 3, 28, 30, 2, 9)]
    rows = make_rows(documents)
    assert texts(rows) == sorted(documents)
    assert all(sum(len(piece.tokens) for piece in row) <= 40 for row in rows.rows)
    assert len(rows) < len(documents)


def test_a_long_document_goes_on_in_another_row() -> None:
    document = "".join(chr(97 + i % 26) for i in range(100))
    rows = make_rows([document])
    assert texts(rows) == sorted([document[:40], document[40:80], document[80:]])


def test_only_what_is_needed_is_read() -> None:
    def documents():
        for number in range(10**9):
            yield f"document {number}"

    assert len(make_rows(documents(), n_needed=7)) == 7


def test_batch() -> None:
    rows = make_rows(["abc", "de"], context=8)
    batch = make_batch(rows.rows, 8)
    first, second = ("abc", "de") if rows.rows[0][0].tokens.size == 3 else ("de", "abc")
    n, m = len(first), len(second)
    assert batch.documents.tolist() == [[0] * n + [1] * m + [-1] * 3]
    assert batch.positions[0, : n + m].tolist() == [*range(n), *range(m)]
    assert batch.counts.tolist() == [[False] + [True] * (n - 1) + [False] + [True] * (m - 1) + [False] * 3]
    assert tiny_tokenizer().decode(batch.ids[0, : n + m]).replace(" ", "") == first + second


def test_only_replies_count() -> None:
    rows = make_rows([CHAT], context=200, assistant_only=True)
    (piece,) = rows.rows[0]
    decode = tiny_tokenizer().decode
    assert "".join(decode([token]) for token in piece.tokens[piece.counts]) == "three</s>five six</s>"


def test_a_template_that_rewrites_earlier_replies() -> None:
    """Such replies are not in the text as they were written, and do not count."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else '...' }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (piece,) = make_rows([CHAT], context=200, assistant_only=True, tokenizer=tokenizer).rows[0]
    assert "".join(tokenizer.decode([token]) for token in piece.tokens[piece.counts]) == "five six</s>"


def test_a_conversation_that_the_template_refuses() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    )
    with pytest.raises(RetainError, match="refuses the conversation that begins with 'be kind': no system message"):
        make_rows([CHAT, [{"role": "system", "content": "be\nkind"}, *CHAT]], tokenizer=tokenizer)


def test_a_template_that_refuses_the_beginning_of_a_conversation() -> None:
    """As those do that take conversations of two turns alone: the replies that can be found count."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages | length < 3 %}{{ raise_exception('too short') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (piece,) = make_rows([CHAT], context=200, assistant_only=True, tokenizer=tokenizer).rows[0]
    assert "".join(tokenizer.decode([token]) for token in piece.tokens[piece.counts]) == "five six</s>"


def test_documents_without_a_reply_are_left_out_and_counted() -> None:
    rows = make_rows(["plain text", CHAT], context=200, assistant_only=True)
    assert len(rows) == 1 and rows.n_skipped == 1
    with pytest.raises(RetainError, match="no reply of an assistant"):
        make_rows(["plain text"], assistant_only=True)
    with pytest.raises(RetainError, match="no document has two tokens"):
        make_rows(["", "x"])


def test_conversations_need_a_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(RetainError, match="no chat template"):
        make_rows([CHAT], tokenizer=tokenizer)


def test_batches_follow_from_the_seed() -> None:
    documents = [chr(97 + n) * 30 for n in range(10)]
    one, same, other = (make_rows(documents, seed=seed) for seed in (1, 1, 2))
    order = [one.batch(step, 2, torch.device("cpu")).ids for step in range(10)]
    for step in (7, 3):  # whatever was drawn before
        assert torch.equal(order[step], same.batch(step, 2, torch.device("cpu")).ids)
    assert one.digest() == same.digest() != other.digest()
    # every row once before any comes again, then in another order
    epochs = [sorted(row.tolist() for ids in order[start : start + 5] for row in ids) for start in (0, 5)]
    assert epochs[0] == epochs[1] and len({tuple(row) for row in epochs[0]}) == 10
    assert not all(torch.equal(a, b) for a, b in zip(order[:5], order[5:], strict=True))


def test_tokens_are_small_integers() -> None:
    assert make_rows(["abc"]).rows[0][0].tokens.dtype == np.int32
