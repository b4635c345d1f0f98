"""Chats about pictures with the bindings' own class, in a process of its own: for tests that need the stock libraries.

    python -m support.vision_worker job.json out.npz

The job names a model, a projector, the bindings' handler, and conversations. Each conversation adds the logits after its
prompt and the text of its reply to the output. libmtmd is not patched, so ours stands beside the stock libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from retain_local.bindings import library

TESTS = Path(__file__).parents[1]
TIMEOUT_S = 300
MODEL_OPTIONS = {"n_ctx": 2048, "n_ubatch": 512, "n_batch": 512, "n_threads": 1, "n_threads_batch": 1}
SETTINGS = {"temperature": 0.0, "repeat_penalty": 1.0}


def stock_with_mtmd(folder: Path, stock: Path, patched: Path) -> Path:
    """A folder with the stock libraries and libmtmd."""
    for path in stock.iterdir():
        (folder / path.name).symlink_to(path)
    mtmd = library.file_name("mtmd")
    if not (folder / mtmd).exists():
        (folder / mtmd).write_bytes((patched / mtmd).read_bytes())
    return folder


def run_vision_worker(folder: Path, job: dict[str, Any], libraries: Path) -> dict[str, np.ndarray]:
    """Run a job on the libraries of a folder; see the module."""
    path, out = folder / "vision.json", folder / "vision.npz"
    path.write_text(json.dumps(job))
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": os.fspath(libraries), "MTMD_CPP_LIB": os.fspath(libraries)}
    done = subprocess.run(
        [sys.executable, "-m", "support.vision_worker", path, out],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"the worker failed:\n{done.stderr[-3000:]}"
    with np.load(out) as arrays:
        return dict(arrays)


def logits_and_text(llm: Any, messages: list[dict[str, Any]], n: int, **settings: Any) -> tuple[np.ndarray, str]:
    """The logits after the prompt of a conversation, [n_vocab] float32, and the n tokens of its reply."""
    llm.create_chat_completion(messages, max_tokens=1, **SETTINGS, **settings)
    logits = np.ctypeslib.as_array(llm._ctx.get_logits(), (llm.n_vocab(),)).copy()
    reply = llm.create_chat_completion(messages, max_tokens=n, **SETTINGS, **settings)
    return logits, reply["choices"][0]["message"]["content"]


def main(job_path: str, out: str) -> None:
    import llama_cpp
    from llama_cpp import llama_chat_format

    job = json.loads(Path(job_path).read_text())
    arrays = {}
    for i, messages in enumerate(job["conversations"]):
        handler = getattr(llama_chat_format, job["handler"])(clip_model_path=job["projector"], verbose=False)
        types = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
        llm = llama_cpp.Llama(job["model"], chat_handler=handler, verbose=False, **MODEL_OPTIONS, **types)
        logits, text = logits_and_text(llm, messages, job["n"])
        arrays |= {f"{i}.logits": logits, f"{i}.text": np.array(text)}
        llm.close()
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
