"""Questions one after the other in one conversation, with the full cache and with small ones, with recall and without.

    python docs/tools/measure_turns.py [bundled|MODEL] [--conversations 32] [--budgets 1/8,1/16] [--policies gate,window]
        [--recall 0,25%] [--archive 64MiB]

Two kinds of conversations, made of what `eval` asks for. In the first a text with 48 random keys is read, and five of them are
asked for, one question after the other; right answers are told for the first question to the last. In the second
each of 40 messages asks for a fact that was said at any time before, and every second one says a new fact; right answers are
told for each quarter of the chat, and for facts by how many messages ago they were said. Budgets are cells, or shares of a
conversation's length with the full cache. Replies are greedy.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from random import Random

from retain_local import Llama
from retain_local.chat.sampling import Sampling
from retain_local.chat.session import Session
from retain_local.commands.model_name import find_model
from retain_local.options.archive import parse_recall, share_text
from retain_local.options.budget import Budget
from retain_local.tasks import TASKS
from retain_local.tasks.compose import INSTRUCTION
from retain_local.tasks.elements import ask
from retain_local.tasks.item import Question
from retain_local.tasks.sentences import draw_facts

N_FOLLOW_UPS, N_TURNS, MAX_TOKENS = 5, 40, 24
Message = tuple[str, Question | None, str]  # what is said, what it asks for, where an answer is counted


def follow_ups(seed: int) -> Iterator[Message]:
    """A text with random keys, and questions about five of them."""
    item = TASKS["lookup"].item(f"turns-{seed}")
    for role, text in item.turns:
        if role == "user":
            yield text, None, ""
    for at, question in enumerate(item.questions[:N_FOLLOW_UPS]):
        yield question.text, question, f"question {at + 1}"


def long_chat(seed: int) -> Iterator[Message]:
    """Messages that each ask for something said before; every second one says something new."""
    rng = Random(f"chat-{seed}")
    facts = draw_facts(rng, N_TURNS // 2)
    said: list[int] = []  # the message that each fact was said in
    for turn in range(N_TURNS):
        parts = [INSTRUCTION] if turn == 0 else []
        if turn % 2 == 0:
            parts.append(facts[len(said)].statement(rng))
            said.append(turn)
        at = rng.randrange(len(said))
        question = ask(rng, facts[at])
        ago = turn - said[at]
        far = (
            "said just now"
            if ago == 0
            else f"said {'1-9' if ago < 10 else '10-19' if ago < 20 else '20+'} messages ago"
        )
        yield (
            " ".join([*parts, question.text]),
            question,
            f"messages {turn // 10 * 10 + 1}-{turn // 10 * 10 + 10}|{far}",
        )


KINDS = {"five questions about random keys": follow_ups, "a chat of 40 messages": long_chat}


def ask_all(llm: Llama, messages: list[Message]) -> tuple[list[tuple[str, float]], int]:
    """Where each answer is counted with its score, and the conversation's tokens."""
    session = Session(llm, "", Sampling(temp=0, max_tokens=MAX_TOKENS))
    found = []
    for text, question, places in messages:
        reply = "".join(session.send(text))
        if question is not None:
            found += [(place, question.score(reply)) for place in places.split("|")]
    return found, len(session.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--budgets", default="1/8,1/16")
    parser.add_argument("--policies", default="gate,window")
    parser.add_argument("--recall", default="0,25%")
    parser.add_argument("--archive", default="64MiB")
    asked = parser.parse_args()
    path, _ = find_model(asked.model)
    usual = {"n_threads": 1, "n_ctx": 2048, "sinks": 0, "n_ubatch": 16, "buffer": 16}
    for kind, make in KINDS.items():
        conversations = [list(make(seed)) for seed in range(asked.conversations)]
        with closing(Llama(path, **usual | {"policy": "none", "gates": None})) as llm:
            answers = [ask_all(llm, messages) for messages in conversations]
        n_tokens = max(n for _, n in answers)
        print(f"\n{kind}, {asked.conversations} of up to {n_tokens:,} tokens")
        show("full", [found for found, _ in answers], is_first=True)
        for policy in asked.policies.split(","):
            for budget in asked.budgets.split(","):
                for recall in map(parse_recall, asked.recall.split(",")):
                    archive = {"archive": asked.archive, "recall": recall} if recall else {}
                    cells = Budget.parse(budget).of(n_tokens)
                    with closing(Llama(path, **usual, policy=policy, budget=cells, **archive)) as llm:
                        found = [ask_all(llm, messages)[0] for messages in conversations]
                    name = f"{policy} {budget} ({cells} cells)" + (f" +{share_text(recall)} recall" if recall else "")
                    show(name, found)


def show(name: str, answers: list[list[tuple[str, float]]], is_first: bool = False) -> None:
    """A row of a table in Markdown: right answers in percent, in all and for each place."""
    by_place: dict[str, list[float]] = defaultdict(list)
    for of_one in answers:
        for place, score in of_one:
            by_place[place].append(score)
    if is_first:
        print(f"| | {' | '.join(sorted(by_place))} |\n|{'---|' * (1 + len(by_place))}")
    cells = [f"{100 * sum(scores) / len(scores):.1f}" for _, scores in sorted(by_place.items())]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
