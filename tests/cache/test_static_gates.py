"""Gates whose scores do not decay, and gates on some layers, in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retain_local.bindings import retain_h
from retain_local.gates import GateSet
from retain_local.gates.verify import DEFAULT_TEXT, verify_sidecar
from support.reference import Options
from support.retained import RetainedSession, retain_fields
from support.rig import SMALL, Rig, open_rig
from support.tiny_gates import static_gates, write_tiny_gates
from support.tiny_models import N_VOCAB

TOKENS = np.random.default_rng(0).integers(3, N_VOCAB, 120).tolist()
FORMS = ["linear", "mlp", "fast_kvzip"]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    rig = open_rig(tmp_path_factory.mktemp("static"))
    yield rig
    rig.model.close()


@pytest.mark.parametrize("weight_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("form", FORMS)
def test_what_llama_cpp_computes_is_what_numpy_does(rig: Rig, tmp_path: Path, form: str, weight_type: str) -> None:
    gates = static_gates(SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv, form)
    path = write_tiny_gates(tmp_path / "g.gguf", rig.model.path, SMALL, gates, weight_type)
    text = DEFAULT_TEXT.read_text(encoding="utf-8")
    result = verify_sidecar(path, Path(rig.model.path), text, 150, n_threads=1, n_threads_batch=1)
    assert result.passed and result.is_static and [layer.layer for layer in result.layers] == [0, 1, 2]
    assert all(layer.lowest < layer.highest for layer in result.layers)


def test_a_state_of_static_gates_is_for_static_gates(rig: Rig) -> None:
    """Its scores are of any sign, where log betas are not; a cache that decays cannot take them."""
    options = Options(budget=24, n_ubatch=16)
    with rig.session(options, "static linear") as session:
        session.decode(TOKENS)
        state = session.state()
        cells = [session.cell_list(il, head) for il, head in np.ndindex(SMALL.n_layer, SMALL.n_head_kv)]
    assert any((scores > 0).any() for _, scores in cells) and any((scores < 0).any() for _, scores in cells)
    with rig.session(options, "static linear") as session:
        assert session.restore(state)
        found = [session.cell_list(il, head) for il, head in np.ndindex(SMALL.n_layer, SMALL.n_head_kv)]
        for (pos, scores), (expected_pos, expected) in zip(found, cells, strict=True):
            np.testing.assert_array_equal(pos, expected_pos)
            np.testing.assert_array_equal(scores, expected)
    with rig.session(options) as session:
        assert not session.restore(state) and retain_h.error_text()
        assert session.n_cells() == 0


def test_the_window_leaves_half_of_the_budget_to_the_scores(rig: Rig, tmp_path: Path) -> None:
    gates = static_gates(SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv, "linear", window=1000)
    path = write_tiny_gates(tmp_path / "g.gguf", rig.model.path, SMALL, gates)
    retain = retain_fields(Options(budget=24, n_sink=2, scope="head")) | {"gates": path}
    with RetainedSession(rig.model, retain, n_ctx=512, n_batch=16, n_ubatch=16) as session:
        session.pin(4, 8)
        for start in range(0, 112, 16):
            session.decode(TOKENS[start : start + 16])
        session.decode(TOKENS[112:113])  # before it the last eviction runs
        kept = {*session.cell_list(1, 1)[0].tolist()} - {112}
    assert len(kept) == 24 and {0, 1, 4, 5, 6, 7, *range(112 - 9, 112)} <= kept
    assert not {*range(112 - 18, 112)} <= kept


def test_a_layer_without_a_gate_is_refused(rig: Rig, tmp_path: Path) -> None:
    def refusal(gates: GateSet) -> str:
        path = write_tiny_gates(tmp_path / "g.gguf", rig.model.path, SMALL, gates)
        assert retain_h.gates_check(rig.model.handle, bytes(path)), retain_h.error_text()
        with pytest.raises(RuntimeError) as error:
            RetainedSession(rig.model, {"budget": 24, "gates": path}, n_ctx=512)
        return str(error.value)

    some = static_gates(SMALL.n_layer, SMALL.n_embd, SMALL.n_head_kv, "linear", indices=(0, 2))
    assert "no gate for layer 1" in refusal(some)
