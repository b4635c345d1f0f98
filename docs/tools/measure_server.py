"""Measure the server: ``.venv/bin/python docs/tools/measure_server.py chat MODEL`` or ``throughput MODEL``.

chat        one conversation of many turns: tokens read and time to the first token of each, memory of the process, and the
            replies beside those of the Python class
throughput  parallel conversations at a depth, beside llama.cpp's own server: tokens a second of all of them together
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from retain_local.models.model_file import read_model_file
from retain_local.server import Server
from retain_local.server.binary import SOURCES

_LISTENING = re.compile(r"listening on (http://\S+)")


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


@dataclass
class Reply:
    """A streamed reply of a chat: its text, seconds to its first piece, its times with what the cache keeps, and for each
    token the end of the text until then and by how much its log-probability is above the second best."""

    text: str = ""
    first_s: float = 0.0
    timings: dict[str, Any] = field(default_factory=dict)
    leads: list[tuple[int, float]] = field(default_factory=list)

    def lead_at(self, place: int) -> float:
        """Of the token that holds a place of the text."""
        return next((lead for end, lead in self.leads if end > place), self.leads[-1][1])


def streamed(url: str, body: dict[str, Any]) -> Reply:
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started, reply = time.monotonic(), Reply()
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            choice = (event["choices"] or [{"delta": {}}])[0]
            reply.first_s = reply.first_s or time.monotonic() - started
            reply.text += choice["delta"].get("content") or ""
            for token in (choice.get("logprobs") or {}).get("content", []):
                best, second = (one["logprob"] for one in token["top_logprobs"])
                reply.leads.append((len(reply.text), best - second))
            if "timings" in event:
                reply.timings = event["timings"] | {"retention": event["retention"]}
    return reply


def question(turn: int, n_words: int) -> str:
    rng = random.Random(turn)
    names = "Ann Bob Cleo Dan Eve Finn Gus Hal Ida Jon".split()
    things = "a red bicycle,an old map,two apples,the blue lamp,a heavy book,a wooden chair".split(",")
    places = "market,river,station,library,harbour,garden".split(",")
    facts = []
    while sum(len(fact.split()) for fact in facts) < n_words:
        facts.append(f"{rng.choice(names)} took {rng.choice(things)} to the {rng.choice(places)}.")
    return " ".join(facts) + f" This was day {turn}. Say in one sentence what happened."


def chat(args: argparse.Namespace) -> None:
    options = {"budget": args.budget, "policy": args.policy, "gates": args.gates, "n_ubatch": args.ubatch}
    threads = ("--threads", str(args.threads), "--threads-batch", str(args.threads))
    messages: list[dict[str, str]] = []
    turns: list[Reply] = []
    n_before = 0
    print("turn  prompt   new  read  first token s  RSS MB  cells per list  checkpoints MB")
    with Server(args.model, parallel=1, ctx_size=args.ctx, arguments=threads, **options) as server:
        process = psutil.Process(server.pid)
        for turn in range(args.turns):
            messages.append({"role": "user", "content": question(turn, args.words)})
            body = {"messages": messages, "temperature": 0, "max_tokens": args.max_tokens}
            body |= {"logprobs": True, "top_logprobs": 2}
            reply = streamed(server.url, body)
            turns.append(reply)
            messages.append({"role": "assistant", "content": reply.text})
            timings = reply.timings
            n_prompt = timings["cache_n"] + timings["prompt_n"]
            kept = timings["retention"]
            n_lists = kept["cells_seen"] / kept["tokens_seen"]
            slot = json.load(urllib.request.urlopen(f"{server.url}/retention"))["slots"][0]
            print(
                f"{turn + 1:4} {n_prompt:7} {n_prompt - n_before:5} {timings['prompt_n']:5} {reply.first_s:14.2f}"
                f" {process.memory_info().rss / 1e6:7.1f} {kept['cells'] / n_lists:15.0f}"
                f" {slot['checkpoint_bytes'] / 1e6:15.1f}",
                flush=True,
            )
            n_before = n_prompt + timings["predicted_n"] - 1
    if not args.no_compare:
        compare(args, options, messages, turns)


def compare(args: argparse.Namespace, options: dict[str, Any], messages: list[Any], turns: list[Reply]) -> None:
    """The same conversation by the Python class: its replies, and how many cells it keeps, beside the server's."""
    from retain_local import Llama

    llm = Llama(args.model, n_ctx=args.ctx, n_threads=args.threads, n_threads_batch=args.threads, **options)
    n_same = n_alike = 0
    for turn, reply in enumerate(turns):
        made = llm.create_chat_completion(messages[: 2 * turn + 1], temperature=0, max_tokens=args.max_tokens)
        text = made["choices"][0]["message"]["content"]
        n_same += text == reply.text
        n_alike += llm.retention.stats().cells_kept == reply.timings["retention"]["cells"]
        if text != reply.text:
            place = len(os.path.commonprefix([text, reply.text]))
            print(f"turn {turn + 1} differs where the server's best word leads by {reply.lead_at(place):.4f}:")
            print(f"  server {reply.text!r}\n  class  {text!r}", flush=True)
    print(
        f"of {len(turns)} replies {n_same} are the class's after the same turns; cells kept are as many after {n_alike}"
    )


@contextmanager
def stock(model: Path, n_slots: int, n_ctx: int, states: Path, n_threads: int) -> Iterator[str]:
    """Address of llama.cpp's own server of the same version."""
    builder = [sys.executable, str(SOURCES / "builder"), "server", "--stock"]
    program = subprocess.run(builder, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    command = [program, "-m", model, "--port", "0", "-np", n_slots, "-c", n_slots * n_ctx, "--slot-save-path", states]
    command += ["--threads", n_threads, "--no-cache-idle-slots", "--cache-ram", "0", "-fit", "off"]
    # or a slot would end where the model's training did
    command += ["--override-kv", f"{read_model_file(model).architecture}.context_length=int:{n_ctx}"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        url = next(match[1] for line in process.stdout if (match := _LISTENING.search(line)))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [None for _ in process.stdout or ()])
            try:
                yield url
            finally:
                process.terminate()


def prepare(url: str, states: Path, name: str, depth: int) -> None:
    """Let the first slot read a prompt of random tokens, and save it, unless that was done before."""
    if not (states / name).exists():
        post(url, "/completion", {"prompt": random_tokens(depth), "n_predict": 1, "temperature": 0, "id_slot": 0})
        post(url, "/slots/0?action=save", {"filename": name})


def random_tokens(n: int) -> list[int]:
    rng = random.Random(0)
    return [rng.randrange(1000, 2000) for _ in range(n)]


def measure(url: str, name: str, slots: list[int], depth: int, n_predict: int) -> dict[int, float]:
    """Tokens a second of all conversations together, by how many there are at once."""
    body = {"prompt": [*random_tokens(depth), 1500], "n_predict": n_predict, "temperature": 0, "ignore_eos": True}
    speeds = {}
    for n in slots:
        for slot in range(n):
            post(url, f"/slots/{slot}?action=restore", {"filename": name})
        with ThreadPoolExecutor(n) as pool:
            replies = list(pool.map(lambda slot: post(url, "/completion", body | {"id_slot": slot}), range(n)))
        assert all(reply["timings"]["prompt_n"] == 1 for reply in replies)
        slowest = max(reply["timings"]["predicted_ms"] for reply in replies) / 1e3
        speeds[n] = n * (n_predict - 1) / slowest
    return speeds


def throughput(args: argparse.Namespace) -> None:
    n_ctx = args.depth + 1024
    args.states.mkdir(parents=True, exist_ok=True)
    states = args.states.resolve()
    more = ("--threads", str(args.threads), "--slot-save-path", str(states), "--cache-ram", "0")
    options = {"budget": args.budget, "policy": args.policy, "gates": args.gates, "ctx_size": n_ctx}
    with (
        Server(args.model, parallel=max(args.slots), arguments=more, **options) as server,
        stock(args.model, max(args.slots), n_ctx, states, args.threads) as stock_url,
    ):
        both = [(server.url, f"ours-{args.depth}.bin"), (stock_url, f"stock-{args.depth}.bin")]
        for url, name in both:
            prepare(url, states, name, args.depth)
        if args.prepare:
            return
        load = os.getloadavg()[0]
        rounds = [
            [measure(url, name, args.slots, args.depth, args.tokens) for url, name in both] for _ in range(args.rounds)
        ]
    print(
        f"depth {args.depth}, budget {args.budget}, load {load:.1f} before: tokens a second of all conversations together"
    )
    print("conversations  this server  stock  ratio")
    for n in args.slots:
        ours, theirs = (max(speeds[i][n] for speeds in rounds) for i in (0, 1))  # the least disturbed
        print(f"{n:13} {ours:12.1f} {theirs:6.1f} {ours / theirs:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("chat")
    one.set_defaults(run=chat)
    one.add_argument("--turns", type=int, default=60)
    one.add_argument("--words", type=int, default=180, help="of a question, about")
    one.add_argument("--max-tokens", type=int, default=60)
    one.add_argument("--ctx", type=int, default=32768)
    one.add_argument("--ubatch", type=int)
    one.add_argument("--no-compare", action="store_true")
    two = commands.add_parser("throughput")
    two.set_defaults(run=throughput)
    two.add_argument("--depth", type=int, default=16384)
    two.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8], help="how many conversations at once")
    two.add_argument("--tokens", type=int, default=24, help="generated by each conversation")
    two.add_argument("--rounds", type=int, default=2, help="of which the faster one counts")
    two.add_argument("--states", type=Path, required=True, help="folder for what the slots hold after the prompt")
    two.add_argument(
        "--prepare", action="store_true", help="read the prompts, which takes longest, and measure another time"
    )
    for parser_of_one, budget in ((one, 1024), (two, 2048)):
        parser_of_one.add_argument("model", type=Path)
        parser_of_one.add_argument("--budget", type=int, default=budget)
        parser_of_one.add_argument("--policy", default="window")
        parser_of_one.add_argument("--gates", type=Path)
        parser_of_one.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
