"""Runs sessions in a process of its own, for tests that need the stock libraries or a fresh start.

    python -m support.worker job.json out.npz

The job names a model and runs; a run is a context and steps, and each step that makes numbers adds arrays to the
output: `{run}.{step}.logits` and, for generated text, `{run}.{step}.tokens`. A run with `retain` needs the patched
libraries, one without it runs on either.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil

TESTS = Path(__file__).parents[1]
TIMEOUT_S = 300


def run_worker(
    folder: Path, model: Path, runs: list[dict[str, Any]], libraries: Path, buffer_type: str | None = None
) -> dict[str, np.ndarray]:
    """Run a job in a process that loads llama.cpp from the folder `libraries`; returns its arrays.

    Each run is a dict of `context` (arguments of Session), `retain` (fields of retain_params, optional) and `steps`, a
    list of (name, argument) pairs named after `_STEPS`. `folder` takes the files. `buffer_type` is as for `Model`.
    """
    job, out = folder / "job.json", folder / "out.npz"
    job.write_text(json.dumps({"model": os.fspath(model), "buffer_type": buffer_type, "runs": runs}))
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": os.fspath(libraries), "MTMD_CPP_LIB": os.fspath(libraries)}
    done = subprocess.run(
        [sys.executable, "-m", "support.worker", job, out],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"the worker failed:\n{done.stderr[-3000:]}"
    with np.load(out) as arrays:
        return dict(arrays)


class _Run:
    """One run: its session and the logits of its last token."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.last: np.ndarray | None = None

    def decode(self, tokens: list[int]) -> dict[str, np.ndarray]:
        logits = self.session.decode(tokens)
        self.last = logits[-1]
        return {"logits": logits}

    def greedy(self, n: int) -> dict[str, np.ndarray]:
        tokens, logits = self.session.greedy(self.last, n)
        self.last = logits[-1]
        return {"tokens": np.array(tokens), "logits": logits}

    def save(self, path: str) -> dict[str, np.ndarray]:
        np.savez(path, state=np.frombuffer(self.session.state(), np.uint8), last=self.last)
        return {}

    def load(self, path: str) -> dict[str, np.ndarray]:
        with np.load(path) as saved:
            assert self.session.restore(saved["state"].tobytes())
            self.last = saved["last"]
        return {}

    def stream(self, n_tokens: int) -> dict[str, np.ndarray]:
        """Read at least n_tokens in full batches; resident bytes and most cells so far, after each batch."""
        n_batch, process = self.session.n_batch, psutil.Process()
        n_batches = -(-n_tokens // n_batch)
        tokens = np.random.default_rng(0).integers(3, self.session.model.n_vocab, n_batch).tolist()
        resident, cells = [], []
        for _ in range(n_batches):
            self.session.decode(tokens)
            resident.append(process.memory_info().rss)
            cells.append(self.session.stats().n_cells_peak)
        return {"resident": np.array(resident), "cells": np.array(cells)}


_STEPS = {"decode": _Run.decode, "greedy": _Run.greedy, "save": _Run.save, "load": _Run.load, "stream": _Run.stream}


def main(job_path: str, out_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    arrays: dict[str, np.ndarray] = {}
    model = None
    for i, run in enumerate(job["runs"]):
        retain = run.get("retain")
        if retain is not None:
            from support.retained import RetainedSession
        from support.llama_session import Model, Session

        model = model or Model(Path(job["model"]), job["buffer_type"])
        context = run["context"]
        with Session(model, **context) if retain is None else RetainedSession(model, retain, **context) as session:
            state = _Run(session)
            for j, (name, argument) in enumerate(run["steps"]):
                for key, array in _STEPS[name](state, argument).items():
                    arrays[f"{i}.{j}.{key}"] = array
    np.savez(out_path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
