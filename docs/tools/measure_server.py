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
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from retain_local.server import Server
from retain_local.server.binary import SOURCES

_LISTENING = re.compile(r"listening on (http://\S+)")


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def streamed(url: str, body: dict[str, Any]) -> tuple[str, float, dict[str, Any]]:
    """Text of a streamed reply of a chat, seconds to its first piece, and its times."""
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started, first, text, timings = time.monotonic(), 0.0, "", {}
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            piece = (event["choices"] or [{"delta": {}}])[0]["delta"].get("content")
            if piece:
                first = first or time.monotonic() - started
                text += piece
            timings = event.get("timings", {}) | {"retention": event["retention"]} if "timings" in event else timings
    return text, first, timings


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
    options = {"budget": args.budget, "policy": args.policy, "n_ubatch": args.ubatch}
    messages: list[dict[str, str]] = []
    replies = []
    n_before = 0
    print("turn  prompt  new  read  first token s  RSS MB  cells per list")
    with Server(args.model, parallel=1, ctx_size=args.ctx, arguments=("--threads", "2"), **options) as server:
        process = psutil.Process(server.pid)
        for turn in range(args.turns):
            messages.append({"role": "user", "content": question(turn, args.words)})
            body = {"messages": messages, "temperature": 0, "max_tokens": args.max_tokens}
            text, first, timings = streamed(server.url, body)
            messages.append({"role": "assistant", "content": text})
            replies.append(text)
            n_prompt = timings["cache_n"] + timings["prompt_n"]
            kept = timings["retention"]
            n_lists = kept["cells_seen"] / kept["tokens_seen"]
            print(
                f"{turn + 1:4} {n_prompt:7} {n_prompt - n_before:4} {timings['prompt_n']:5} {first:14.2f}"
                f" {process.memory_info().rss / 1e6:7.1f} {kept['cells'] / n_lists:15.0f}",
                flush=True,
            )
            n_before = n_prompt + timings["predicted_n"] - 1
    if not args.no_compare:
        compare(args, options, messages, replies)


def compare(args: argparse.Namespace, options: dict[str, Any], messages: list[Any], replies: list[str]) -> None:
    """The same conversation by the Python class, its replies beside the server's."""
    from retain_local import Llama

    llm = Llama(args.model, n_ctx=args.ctx, n_threads=2, **options)
    same = 0
    for turn, reply in enumerate(replies):
        made = llm.create_chat_completion(messages[: 2 * turn + 1], temperature=0, max_tokens=args.max_tokens)
        text = made["choices"][0]["message"]["content"]
        same += text.strip() == reply.strip()
        if text.strip() != reply.strip():
            print(f"turn {turn + 1} differs:\n  server {reply!r}\n  class  {text!r}")
    print(f"{same} of {len(replies)} replies are the same as the class gives after the same turns")


@contextmanager
def stock(model: Path, n_slots: int, n_ctx: int, folder: str) -> Iterator[str]:
    """Address of llama.cpp's own server of the same version."""
    builder = [sys.executable, str(SOURCES / "builder"), "server", "--stock"]
    program = subprocess.run(builder, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    command = [program, "-m", model, "--port", "0", "-np", n_slots, "-c", n_slots * n_ctx, "--slot-save-path", folder]
    command += ["--threads", "2", "--no-cache-idle-slots", "--cache-ram", "0", "-fit", "off"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        url = next(match[1] for line in process.stdout if (match := _LISTENING.search(line)))
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [None for _ in process.stdout or ()])
            try:
                yield url
            finally:
                process.terminate()


def measure(url: str, n_slots: int, depth: int, n_predict: int) -> dict[int, float]:
    """Tokens a second of 1, 2, 4, ... conversations at a depth."""
    rng = random.Random(0)
    prompt = [rng.randrange(1000, 2000) for _ in range(depth)]
    body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "ignore_eos": True}
    post(url, "/completion", body | {"id_slot": 0})
    post(url, "/slots/0?action=save", {"filename": "depth.bin"})
    for slot in range(1, n_slots):
        post(url, f"/slots/{slot}?action=restore", {"filename": "depth.bin"})

    speeds, n = {}, 1
    while n <= n_slots:
        prompt = [*prompt, 1500 + n]  # goes on from what every slot holds
        with ThreadPoolExecutor(n) as pool:
            jobs = [
                pool.submit(
                    post, url, "/completion", body | {"prompt": prompt, "n_predict": n_predict, "id_slot": slot}
                )
                for slot in range(n)
            ]
            replies = [job.result() for job in jobs]
        assert all(reply["timings"]["prompt_n"] < depth / 2 for reply in replies)
        slowest = max(reply["timings"]["predicted_ms"] for reply in replies) / 1e3
        speeds[n] = n * (n_predict - 1) / slowest
        n *= 2
    return speeds


def throughput(args: argparse.Namespace) -> None:
    n_ctx = args.depth + 1024
    with tempfile.TemporaryDirectory() as folder:
        more = ("--threads", "2", "--slot-save-path", folder, "--cache-ram", "0")
        options = {"budget": args.budget, "policy": args.policy, "parallel": args.slots, "ctx_size": n_ctx}
        with Server(args.model, arguments=more, **options) as server:
            ours = measure(server.url, args.slots, args.depth, args.tokens)
        with stock(args.model, args.slots, n_ctx, folder) as url:
            theirs = measure(url, args.slots, args.depth, args.tokens)
    print(f"depth {args.depth}, budget {args.budget}: tokens a second of all conversations together")
    print("conversations  this server  stock  ratio")
    for n in ours:
        print(f"{n:13} {ours[n]:12.1f} {theirs[n]:6.1f} {ours[n] / theirs[n]:6.2f}")


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
    two.add_argument("--slots", type=int, default=8)
    two.add_argument("--tokens", type=int, default=24, help="generated by each conversation")
    for parser_of_one, budget in ((one, 1024), (two, 2048)):
        parser_of_one.add_argument("model", type=Path)
        parser_of_one.add_argument("--budget", type=int, default=budget)
        parser_of_one.add_argument("--policy", default="window")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
