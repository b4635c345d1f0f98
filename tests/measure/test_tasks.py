"""Generated tasks: what they ask can be answered from their text, and follows from the seed."""

from __future__ import annotations

import re

import pytest

from retain_local.errors import UsageError
from retain_local.tasks import ACKNOWLEDGEMENT, TASKS, Item, Question, count_words

SEEDS = range(5)
every_task = pytest.mark.parametrize("name", TASKS)


def text(item: Item) -> str:
    """What the user says, all turns together, without the instruction."""
    return " ".join(content for role, content in item.turns if role == "user").partition("\n")[2]


@every_task
def test_an_item_follows_from_its_seed(name: str) -> None:
    assert TASKS[name].item("7-0") == TASKS[name].item("7-0")
    assert TASKS[name].item("7-0") != TASKS[name].item("7-1")


OTHERS = {
    "n_tokens": 500,
    "n_facts": 6,
    "n_decoys": 3,
    "n_asked": 2,
    "n_hops": 4,
    "n_changes": 3,
    "n_turns": 3,
    "depth": 40,
}


@every_task
def test_a_task_reads_the_parameters_that_make_a_difference(name: str) -> None:
    task = TASKS[name]
    assert {key for key, value in OTHERS.items() if task.item(0, **{key: value}) != task.item(0)} == {*task.reads}


@every_task
@pytest.mark.parametrize("seed", SEEDS)
def test_the_wanted_answer_is_right_and_those_to_other_questions_are_not(name: str, seed: int) -> None:
    questions = TASKS[name].item(seed).questions
    assert questions
    for question in questions:
        assert question.score(question.answer) == 1
        assert question.score("") == 0
        values = {other.values for other in questions}
        wrong = [other for other in questions if other.values != question.values]
        assert len(values) == 1 or wrong
        assert sum(question.is_right(other.answer) for other in wrong) < len(questions)


@every_task
@pytest.mark.parametrize("seed", SEEDS)
def test_the_text_is_as_long_as_asked_for_and_ends_with_a_reply(name: str, seed: int) -> None:
    item = TASKS[name].item(seed, n_tokens=900)
    said = [content for _, content in item.turns]
    assert item.turns[-1][0] == "assistant" and [role for role, _ in item.turns[::2]] == ["user"] * (len(said) // 2)
    extra = 40 if TASKS[name].parameters.n_turns > 1 else 0  # small talk
    assert 880 <= count_words(text(item)) <= 900 + extra


@pytest.mark.parametrize("name", ["single", "several", "copying", "lookup"])
@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_in_the_text(name: str, seed: int) -> None:
    item = TASKS[name].item(seed)
    for question in item.questions:
        assert all(any(wording in text(item) for wording in value) for value in question.values)


def test_numbers_of_facts_decoys_hops_and_turns() -> None:
    assert len(TASKS["single"].item(0, n_facts=5).questions) == 5
    denials = r"Rumor says|It is not true|Nobody believes|In a dream|A liar says"
    assert len(re.findall(denials, text(TASKS["single"].item(0, n_decoys=11)))) == 11
    assert all(len(q.values) == 4 for q in TASKS["several"].item(0, n_asked=4).questions)
    assert all(q.text.count("the friend of") == 2 for q in TASKS["hops3"].item(0).questions)
    replies = [content for role, content in TASKS["single"].item(0, n_turns=5).turns if role == "assistant"]
    assert replies.count(ACKNOWLEDGEMENT) == 5
    assert not re.search("Now |From today|Since this", text(TASKS["changes"].item(0, n_changes=0)))


def test_counts_are_those_of_the_text() -> None:
    numbers = "zero one two three four five six".split()
    for seed in SEEDS:
        item = TASKS["counting"].item(seed)
        for question in item.questions:
            subject, verb = re.match(r"How many times does the (\w+) (\w+)\?", question.text).groups()
            n = len(re.findall(f"The {subject} {verb}s", text(item)))
            assert question.is_right(f"It {verb}s {numbers[n]} times.") or question.is_right(f"{numbers[n]} time")


def test_the_last_version_of_a_fact_is_asked_for() -> None:
    for seed in SEEDS:
        item = TASKS["changes"].item(seed)
        for question in item.questions:
            ends = [text(item).rfind(wording) for value in question.values for wording in value]
            assert min(ends) >= 0


def test_every_fact_is_superseded_as_often_as_asked_for() -> None:
    for seed in SEEDS:
        item = TASKS["superseded"].item(seed, n_facts=5, n_changes=3, n_decoys=0)
        sentences = re.findall(r"[^.]+\.", text(item))
        changes = [s for s in sentences if re.search("Now |From today on |Since this morning ", s)]
        assert len(item.questions) == 5 and len(changes) == 5 * 3
        for question in item.questions:
            value = question.values[0][0]
            assert [s for s in sentences if value in s][-1] in changes


@pytest.mark.parametrize("depth", [0, 50, 100])
def test_depth_is_where_the_facts_are(depth: int) -> None:
    for seed in SEEDS:
        item = TASKS["single"].item(seed, n_facts=1, n_decoys=4, depth=depth)
        said = text(item)
        value = item.questions[0].values[0][0]
        sentences = re.findall(r"[^.]+\.", said)
        places = [at for at, sentence in enumerate(sentences) if value in sentence]
        assert any(abs(100 * at / (len(sentences) - 1) - depth) < 5 for at in places)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("single", {"n_tokens": 0}, "tokens is 0; it must be at least 1"),
        ("single", {"n_tokens": 2**24}, "tokens is 16777216; it must be less than 16777216"),
        ("single", {"n_facts": 0}, "facts is 0"),
        ("single", {"n_decoys": -1}, "decoys is -1"),
        ("single", {"n_facts": 1000}, "there are 192 facts, and 1000 were asked for"),
        ("single", {"n_turns": 0}, "turns is 0"),
        ("single", {"depth": 101}, "depth is 101; it must be 0 to 100"),
        ("several", {"n_asked": 9}, "cannot ask for 9 of 8 facts"),
        ("hops2", {"n_hops": 0}, "hops is 0"),
        ("hops2", {"n_hops": 17}, "4 chains of 17 hops need 68 names"),
        ("copying", {"n_facts": 200}, "100 messages need 100 names"),
        ("lookup", {"n_facts": 5000}, "there are 1920 keys"),
    ],
)
def test_parameters_out_of_range(name: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TASKS[name].item(0, **changes)


@pytest.mark.parametrize(
    "reply, right",
    [
        ("Ada keeps the green lamp.", True),
        ("GREEN LAMP!", True),
        ("the green-lamp", True),
        ("a red lamp, a green lamp", True),
        ("the green lamps", False),
        ("lamp green", False),
        ("", False),
    ],
)
def test_replies(reply: str, right: bool) -> None:
    assert Question("What?", "Ada keeps the green lamp.", (("green lamp",),)).is_right(reply) is right


def test_every_value_is_wanted_in_any_of_its_wordings() -> None:
    question = Question("What?", "", (("two times", "2 times"), ("mill",)))
    assert question.is_right("2 times at the mill") and not question.is_right("two times")
