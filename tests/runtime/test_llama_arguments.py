"""What `Llama` takes, and what it refuses with one line."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from conftest import TinyFiles
from retain_local import Llama
from retain_local.errors import RetainError, UsageError
from support.llamas import greedy, load, prompt, text


def test_it_is_the_parents_class(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window")
    assert isinstance(llm, llama_cpp.Llama)
    assert llm.retention.policy == "window" and not llm.retention.has_gates


def test_context_and_budget_default_to_the_model(tiny: TinyFiles) -> None:
    llm = Llama(str(tiny.model("llama")), policy="window")
    assert llm.n_ctx() == 4096 and llm.retention.budget == 2048


def test_gates_beside_the_model_are_found(tiny: TinyFiles, tmp_path: Path) -> None:
    model = Path(shutil.copy(tiny.model("llama"), tmp_path / "m.gguf"))
    shutil.copy(tiny.gates("llama"), tmp_path / "m.gates.gguf")
    llm = load(model)
    assert llm.retention.policy == "gate" and llm.retention.has_gates
    llm.eval(prompt(llm, 10))
    assert (llm.retention.log_beta(0, 0) < 0).all()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_kv_types_by_name(tiny: TinyFiles, name: str) -> None:
    llm = load(tiny.model("llama"), policy="window", budget=64, type_k=name, type_v=name)
    greedy(llm, prompt(llm, 150), 20)
    row = {"f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q4_0": 18}[name]
    assert llm.retention.stats().bytes_cell == 2 * row
    assert llm.options.resolve(llm.model_file, n_ctx=1024, type_k=_kv(name), type_v=_kv(name)).budget == 64


def _kv(name: str) -> Any:
    from retain_local.kv_types import kv_type

    return kv_type(name)


def test_a_type_may_be_a_number_of_the_bindings(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window", type_k=llama_cpp.GGML_TYPE_Q8_0)
    llm.eval(prompt(llm, 5))
    assert llm.retention.stats().bytes_cell == 34 + 128


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": 0}, "at least 1"),
        ({"budget": -1}, "at least 1"),
        ({"budget": "much"}, "not a number of cells"),
        ({"budget": 10**12}, "more than the context"),
        ({"policy": "best"}, "not one of"),
        ({"type_k": "q9"}, "KV type 'q9' is not one of"),
        ({"n_ctx": -1}, "ctx is -1"),
        ({"n_batch": 0}, "batch is 0"),
        ({"n_ubatch": -3}, "ubatch is -3"),
        ({"n_ubatch": 128, "n_batch": 64}, "ubatch is 128, more than the batch of 64"),
        ({"n_ctx": 512.0}, "ctx is 512.0; it must be a whole number"),
        ({"n_ctx": math.nan}, "ctx is nan"),
        ({"n_ctx": True}, "ctx is True"),
        ({"n_ctx": "512"}, "ctx is '512'"),
        ({"n_ctx": 2**31}, "ctx is 2147483648"),
        ({"n_batch": 10**500}, "batch is a number of more than 64 bits"),
        ({"n_ctx": 512, "budget": 1024}, "a budget of 1024 cells is more than the context of 512 tokens"),
        ({"n_threads": -1}, "threads is -1"),
        ({"n_gpu_layers": 1.5}, "gpu-layers is 1.5"),
        ({"seed": -2}, "seed is -2"),
        ({"rope_freq_base": math.nan}, "rope-freq-base is nan; it must be a number of at least 0"),
        ({"rope_freq_scale": -1}, "rope-freq-scale is -1"),
        ({"yarn_beta_slow": math.inf}, "yarn-beta-slow is inf; it must be a number"),
        ({"lookahead": math.nan}, "lookahead is nan"),
        ({"sinks": True}, "sinks is True"),
        ({"pin_system": "no"}, "pin-system 'no' is not one of True, False"),
        ({"gates": 5}, "gates 5 is no path, and neither 'auto' nor 'none'"),
        ({"type_k": 2.5}, "KV type 2.5 is not one of"),
        ({"type_v": True}, "KV type True is not one of"),
        ({"bugdet": 64}, "Llama takes no argument 'bugdet'; did you mean 'budget'"),
        ({"sink": 8}, "no argument 'sink'; did you mean 'sinks'"),
        ({"n_thread": 1}, "no argument 'n_thread'; did you mean 'n_threads'"),
        ({"zzz": 1}, "no argument 'zzz'; docs/python.md"),
        ({"embedding": True}, "use llama_cpp.Llama"),
        ({"kv_overrides": 3}, "kv_overrides is a dictionary from keys to values, not int"),
    ],
)
def test_wrong_arguments(tiny: TinyFiles, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tiny.model("llama"), **options)
    assert "\n" not in str(caught.value)


def test_numbers_of_any_integer_type(tiny: TinyFiles) -> None:
    n = np.int64
    llm = load(
        tiny.model("llama"), gates="none", policy="window", type_k="F32", type_v="Q8_0",
        n_ctx=n(512), n_batch=n(64), n_ubatch=n(32), budget=n(64), sinks=n(2), n_threads=n(1), n_gpu_layers=n(0),
    )  # fmt: skip
    greedy(llm, prompt(llm, 150), 5)
    assert llm.retention.stats().budget == 64 and pickle.loads(pickle.dumps(llm)).options == llm.options


def test_a_small_budget_gets_the_memory_that_it_asks_for(tiny: TinyFiles) -> None:
    room = {}
    for budget in (64, 256, 1024, 2048, 4096):
        llm = Llama(tiny.model("llama"), gates=None, policy="window", budget=budget)
        stats = llm.retention.stats()
        room[budget] = stats.cells_limit // stats.cell_lists - budget
        llm.close()
    assert room == {64: 32, 256: 64, 1024: 256, 2048: 512, 4096: 0}  # the last one covers the context


def test_the_context_that_is_given_for_a_model(tiny: TinyFiles, tmp_path: Path) -> None:
    key = "llama.context_length"
    llm = Llama(tiny.model("llama"), gates=None, policy="none", kv_overrides={key: 1024})
    assert llm.n_ctx() == llm.options.budget == llm.model_file.n_ctx_train == 1024
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(tiny.model("llama").read_bytes().replace(key.encode(), b"llama.another_length"))
    with pytest.raises(RetainError, match=f"bare.gguf: the file does not say how many tokens .*{key}") as caught:
        Llama(bare, policy="window")
    assert "\n" not in str(caught.value)
    given = Llama(bare, policy="window", kv_overrides={key: 1024})
    greedy(given, prompt(given, 20), 5)
    assert given.n_ctx() == 1024


def test_files_that_are_no_model(tmp_path: Path, tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="no such file"):
        load(tmp_path / "absent.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.model("llama").read_bytes()[:-1000])
    with pytest.raises(RetainError, match="broken.gguf: .*the file is truncated"):
        load(broken, policy="window")


def test_gates_of_another_model(tiny: TinyFiles) -> None:
    with pytest.raises(RetainError) as caught:
        load(tiny.model("llama"), gates=tiny.gates("qwen3"))
    assert "\n" not in str(caught.value) and "qwen3" in str(caught.value)


def test_a_failed_load_leaves_the_next_context_alone(tiny: TinyFiles) -> None:
    with pytest.raises(RetainError):
        load(tiny.model("llama"), gates=tiny.gates("qwen3"))
    stock = llama_cpp.Llama(str(tiny.model("llama")), n_ctx=128, verbose=False)
    from retain_local.bindings import retain_h

    assert not retain_h.is_enabled(stock.ctx)
    stock.close()


def test_a_context_longer_than_trained_warns_once(tiny: TinyFiles, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "retain_local"):
        llm = load(tiny.model("llama"), policy="window", budget=64, n_ctx=5000)
        greedy(llm, prompt(llm, 10), 2)
    assert [record.message for record in caplog.records] == [
        "the context of 5000 tokens is longer than the 4096 the model was trained for; expect worse text beyond"
    ]


def test_auto_says_once_that_there_are_no_gates(
    tiny: TinyFiles, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = Path(shutil.copy(tiny.model("llama"), tmp_path / "m.gguf"))
    with caplog.at_level(logging.INFO, "retain_local"):
        load(model)
    assert len(caplog.records) == 1 and "using the policy 'window'" in caplog.text


def test_gates_that_are_left_out_are_not_said_to_be_missing(
    tiny: TinyFiles, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = Path(shutil.copy(tiny.model("llama"), tmp_path / "m.gguf"))
    shutil.copy(tiny.gates("llama"), tmp_path / "m.gates.gguf")
    with caplog.at_level(logging.INFO, "retain_local"):
        load(model, gates="none")
    assert [record.message for record in caplog.records] == [
        "without gates: using the policy 'window', which keeps the first 4 and the most recent tokens;"
        " retain-local gates calibrate makes gates"
    ]


def test_nothing_is_printed(tiny: TinyFiles, capfd: pytest.CaptureFixture[str]) -> None:
    llm = load(tiny.model("llama"), policy="window", n_ctx=8192, budget=64)
    llm.create_completion(text(100), max_tokens=5)
    assert capfd.readouterr() == ("", "")


def test_verbose_shows_the_native_log(tiny: TinyFiles, capfd: pytest.CaptureFixture[str]) -> None:
    load(tiny.model("llama"), policy="window", verbose=True)
    assert "llama_model_loader" in capfd.readouterr().err


def test_loading_reports_progress(tiny: TinyFiles) -> None:
    seen: list[float] = []
    load(tiny.model("llama"), policy="window", on_load=seen.append)
    assert seen[-1] == 1.0 and seen == sorted(seen)


def test_ctrl_c_while_loading(tiny: TinyFiles) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(tiny.model("llama"), policy="window", on_load=stop)


def test_an_odd_context_has_room_to_its_end(tiny: TinyFiles) -> None:
    # llama.cpp rounds the context up to a multiple of 256
    llm = load(tiny.model("llama"), policy="window", budget=50, n_ctx=100, logits_all=True)
    assert llm.n_ctx() == 256
    greedy(llm, prompt(llm, 150), 105)
    assert llm.n_tokens == 254


def test_vocab_only_has_no_cache(tiny: TinyFiles) -> None:
    llm = Llama(tiny.model("llama"), vocab_only=True)
    assert llm.tokenize(b"ab")
    chat = [{"role": "user", "content": "ab"}]
    for use in (
        lambda: llm.retention.stats(),
        lambda: llm("ab", max_tokens=1),
        lambda: llm.create_chat_completion(chat, max_tokens=1),
        lambda: list(llm.generate([1])),
    ):
        with pytest.raises(RetainError, match="vocab_only"):
            use()
    assert copy.copy(llm).tokenize(b"ab") == llm.tokenize(b"ab")


def test_a_closed_model(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), policy="window")
    retention = llm.retention
    llm.close()
    with pytest.raises(RetainError, match="closed"):
        retention.stats()


def test_pickling_keeps_the_options(tiny: TinyFiles) -> None:
    llm = load(tiny.model("llama"), gates=tiny.gates("llama"), budget=77, prefill="full", sinks=2)
    again = pickle.loads(pickle.dumps(llm))
    assert again.options == llm.options and again.retention.budget == 77


def test_logits_of_every_token_that_do_not_fit(tiny: TinyFiles) -> None:
    with pytest.raises(RetainError, match="not enough memory for the logits"):
        load(tiny.model("llama"), policy="window", budget=64, n_ctx=200_000_000, logits_all=True)
