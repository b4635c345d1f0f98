"""The steps from a seed to the bundled model and its gates; each is skipped when what it makes is there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from transformers import Qwen3ForCausalLM

from ...files import replaced
from ..checkpoint.layout import SAFETENSORS_FILE
from ..train.options import TrainOptions
from ..train.screen import train
from .mixture import training_conversation
from .to_gguf import write_model
from .tokenizer import Tokenizer, for_transformers, load_or_train
from .train_model import CONTEXT, BaseTraining

BASE_TOKENS = 24_000_000
GATE_STEPS, GATE_BATCH, N_CONVERSATIONS = 400, 4, 2500
CONVERSATION = CONTEXT - 24  # tokens of one, so that with its turns it fits the context

# what the release is made with, and for its ablations the same without one part
GATES = TrainOptions(
    gate_size=64, start_bias=8.0, budget=12, context=CONTEXT, batch=GATE_BATCH, steps=GATE_STEPS, learning_rate=2e-3,
    loss="assistant",
)  # fmt: skip
ABLATIONS = {
    "untied": replace(GATES, tied=False),
    "no-capacity": replace(GATES, capacity_weight=0.0),
}


def make_base(out: Path, text: str, seed: int) -> None:
    """Train the tokenizer and the base model; write it as ``base/``, a folder for transformers, and ``bundled.gguf``."""
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_or_train(work / "tokenizer.json", seed, text)
    tokens = torch.tensor(tokenizer.encode(text).ids, dtype=torch.long)
    model = BaseTraining(tokenizer, tokens, work, seed, BASE_TOKENS).run(log=lambda line: print(line, flush=True))
    write_base(out, model, tokenizer)


def write_base(out: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """The base model in both forms."""
    model.save_pretrained(out / "base")
    for_transformers(tokenizer).save_pretrained(out / "base")
    partial = out / "bundled.gguf.partial"  # that bundled.gguf is there means that this step is done
    write_model(partial, model, tokenizer)
    partial.replace(out / "bundled.gguf")


def make_gates(out: Path, name: str, options: TrainOptions) -> Path:
    """Train gates with `retain_local.gates.train` and return their sidecar, in ``gates/NAME/``."""
    folder = out / "gates" / name
    if not (folder / SAFETENSORS_FILE).exists():
        conversations = out / "work" / "conversations.jsonl"
        if not conversations.exists():
            write_conversations(conversations, N_CONVERSATIONS)
        train(str(out / "base"), folder, [str(conversations)], options, out / "bundled.gguf", "f16")
    return folder / "bundled.gates.gguf"


def write_conversations(path: Path, n: int) -> None:
    """What gates are trained on: conversations as the base model's, of a seed that it was not trained on."""
    rng = Random("gates-data")
    with replaced(path) as file:
        for _ in range(n):
            file.write(json.dumps({"messages": training_conversation(rng, CONVERSATION).messages}).encode() + b"\n")


def release(out: Path, sidecar: Path) -> None:
    """Put the gates beside the model, where they are found."""
    shutil.copyfile(sidecar, out / "bundled.gates.gguf")
