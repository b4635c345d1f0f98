"""Published gates: the list of them, which are for a model, and fetching them from the Hub."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from retain_local.errors import RetainError
from retain_local.gates import read_sidecar
from retain_local.gates.published.match import fitting, is_for, plain
from retain_local.gates.published.registry import PACKAGE_FILE, PublishedGates, published_gates, read_list
from retain_local.models.model_file import ModelFile, read_model_file
from support.checkpoints import GatedModel, assert_holds, config_for, save_checkpoint
from support.command_line import COMMAND, FAST, TIMEOUT_S, environment, run
from support.hub_server import COMMIT, Hub, serving
from support.tiny_models import TINY_MODELS, write_tiny_model

MODEL = TINY_MODELS["qwen3"]
OURS = {
    "base": "someone/tiny-model", "hub": "ann/tiny-gates", "kind": "trimkv", "architecture": "qwen3",
    "block_count": MODEL.n_layer, "embedding_length": MODEL.n_embd, "head_count_kv": MODEL.n_head_kv,
    "license": "mit", "trained_on": "a book",
}  # fmt: skip


def test_the_list_of_the_package() -> None:
    known = read_list(PACKAGE_FILE)
    assert len({(gates.base, gates.place) for gates in known}) == len(known) > 15
    assert {gates.kind for gates in known} == {"trimkv", "kvzap", "locret", "fast_kvzip"}
    zap = next(gates for gates in known if gates.hub == "nvidia/KVzap-mlp-Qwen3-8B")
    assert (zap.base, zap.license, zap.block_count, zap.head_count_kv) == ("Qwen/Qwen3-8B", "apache-2.0", 36, 8)


def model_like(name: str, stem: str, gates: PublishedGates) -> ModelFile:
    sizes = {"n_embd": gates.embedding_length, "n_head_kv": (gates.head_count_kv,) * gates.block_count}
    return ModelFile(
        Path(f"{stem}.gguf"), gates.architecture, name, n_ctx_train=0, head_k=128, head_v=128, size=0, **sizes
    )


QWEN3_8B = PublishedGates("Qwen/Qwen3-8B", "nvidia/KVzap-mlp-Qwen3-8B", "kvzap", "qwen3", 36, 4096, 8)


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        ("Qwen3 8B", "model", True),
        ("Qwen3-8B", "x", True),
        ("something", "Qwen3-8B-Q4_K_M", True),
        ("something", "Qwen_Qwen3-8B-IQ4_XS", True),
        ("something", "qwen3-8b-UD-Q4_K_XL", True),
        ("something", "Qwen3-8B.f16", True),
        ("Qwen3 8B Base", "Qwen3-8B-Base-Q8_0", False),
        ("Qwen3 8B abliterated", "model", False),
        ("Qwen3 4B", "Qwen3-4B", False),
    ],
)
def test_a_model_is_known_by_its_name(name: str, stem: str, expected: bool) -> None:
    assert is_for(QWEN3_8B, model_like(name, stem, QWEN3_8B)) == expected


def test_a_model_of_other_sizes_is_not_it_whatever_its_name() -> None:
    for change in ({"architecture": "qwen2"}, {"n_embd": 2048}, {"n_head_kv": (8,) * 35}, {"n_head_kv": (4,) * 36}):
        assert not is_for(QWEN3_8B, replace(model_like("Qwen3 8B", "Qwen3-8B", QWEN3_8B), **change))
    other = model_like("Mine", "mine", QWEN3_8B)
    assert fitting([QWEN3_8B], other) == ([], [QWEN3_8B])


def test_other_names_of_a_model() -> None:
    known = next(gates for gates in read_list(PACKAGE_FILE) if gates.base == "meta-llama/Llama-3.1-8B-Instruct")
    assert is_for(known, model_like("Meta Llama 3.1 8B Instruct", "x", known))
    assert plain("Meta-Llama-3.1-8B-Instruct.Q4_K_M") == "metallama318binstruct"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("{}", "a JSON array of objects"),
        ("[1]", "entry 1 is no JSON object"),
        (json.dumps([OURS, {}]), "entry 2: 'base' is missing"),
        (json.dumps([OURS | {"licence": "mit"}]), "entry 1: 'licence' is not one of base, hub"),
        (json.dumps([OURS | {"kind": "lora"}]), "'kind' is 'lora', not one of trimkv, kvzap"),
        (json.dumps([OURS | {"hub": "tiny"}]), "'hub' is 'tiny', which is no OWNER/REPO"),
        (json.dumps([OURS | {"block_count": "2"}]), "'block_count' is \"2\""),
        (json.dumps([OURS | {"block_count": True}]), "'block_count' is true"),
        (json.dumps([OURS | {"license": "a\nb"}]), "'license' is"),
        (json.dumps([OURS | {"names": "a"}]), "'names' is"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(RetainError) as caught:
        read_list(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RetainError, match="cannot be read: No such file"):
        read_list(tmp_path / "absent.json")


def test_users_extend_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    n_own = len(published_gates())
    (tmp_path / "retain-local").mkdir()
    changed = OURS | {"base": "Qwen/Qwen3-8B", "hub": "nvidia/KVzap-mlp-Qwen3-8B", "license": "mine"}
    (tmp_path / "retain-local" / "gates.json").write_text(json.dumps([OURS, changed]))
    (tmp_path / "more.json").write_text(json.dumps([OURS | {"hub": "ann/more"}]))
    found = published_gates(tmp_path / "more.json")
    assert [gates.hub for gates in found[:3]] == ["ann/more", "ann/tiny-gates", "nvidia/KVzap-mlp-Qwen3-8B"]
    assert len(found) == n_own + 2
    assert [gates.license for gates in found if gates.hub == "nvidia/KVzap-mlp-Qwen3-8B"] == ["mine"]


# fetching


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = save_checkpoint(tmp_path / "made", GatedModel(MODEL), config_for(MODEL, license=None), "torch")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    save_file({"scorer": GatedModel(MODEL).gates[0].bias.detach()}, tmp_path / "other.safetensors")
    unknown = {"model.safetensors": (tmp_path / "other.safetensors").read_bytes(), "README.md": b"no front matter"}
    wide = save_checkpoint(
        tmp_path / "wide", GatedModel(replace(MODEL, n_embd=64)), config_for(replace(MODEL, n_embd=64)), "torch"
    )
    repos = {
        "ann/tiny-gates": files | {"README.md": b"---\nlicense: mit\n---\n# Gates\n"},
        "ann/no-card": dict(files),
        "ann/no-license": files | {"README.md": b"# Gates\n"},
        "ann/other": files
        | {"README.md": b"---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.txt\n---\n"},
        "ann/broken-card": files | {"README.md": b"---\nlicense: [\n---\n"},
        "ann/odd-card": files | {"README.md": b"---\nlicense: {a: 1}\n---\n"},
        "ann/unknown": unknown,
        "ann/wide": {path.name: path.read_bytes() for path in wide.iterdir()},
        "ann/many": {f"qwen/{name}": data for name, data in files.items()} | {"README.md": b"---\nlicense: mit\n---\n"},
    }
    with serving(Hub(repos)) as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model and a list of the user's own that has gates for it."""
    home = tmp_path / "home"
    (home / "config" / "retain-local").mkdir(parents=True)
    (home / "config" / "retain-local" / "gates.json").write_text(json.dumps([OURS, OURS | {"hub": "ann/second"}]))
    write_tiny_model(home / "m.gguf", MODEL)
    return home


def online(hub: Hub, home: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "XDG_CONFIG_HOME": str(home / "config"),
    }  # fmt: skip


def test_pull_makes_the_sidecar_beside_the_model(home: Path, hub: Hub) -> None:
    done = run(home, "gates", "pull", "m.gguf", "--outtype", "f32", **online(hub, home))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("licence of ann/tiny-gates: mit\n")
    assert "others are published too; --from fetches one: ann/second" in done.stderr
    out = home / "m.gates.gguf"
    assert_holds(out, GatedModel(MODEL))
    info = read_sidecar(out).info
    assert (info.license, info.trained_on, info.source) == ("mit", "a book", f"ann/tiny-gates@{COMMIT}")
    assert info.base_fingerprint is not None and info.base_name == "tiny model"
    # and it is found there
    done = run(home, "run", "m.gguf", *FAST, "-p", "hello", "--max-tokens", "4", **online(hub, home))
    assert "gates from" in done.stderr and "published" not in done.stderr


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("ann/no-card", "none found: its card states no licence"),
        ("ann/no-license", "none found: its card states no licence"),
        ("ann/other", "other (mine, LICENSE.txt)"),
        ("ann/many:qwen/trimkv_weights.pth", "mit"),
    ],
)
def test_the_licence_is_shown_as_the_card_states_it(home: Path, hub: Hub, source: str, licence: str) -> None:
    done = run(home, "gates", "pull", "m.gguf", "--from", source, "--out", "o.gguf", **online(hub, home))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"licence of {source}: {licence}")
    stated = read_sidecar(home / "o.gguf").info.license
    assert stated == (None if licence.startswith("none") else licence)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--from", "ann/broken-card"], 1, "ann/broken-card is not fetched: "),
        (["--from", "ann/odd-card"], 1, "its licence cannot be read: {'a': 1}"),
        (["--from", "ann/absent"], 1, "ann/absent is neither a file here nor a repository"),
        (["--from", "ann/many:absent.pth"], 1, "ann/many has no file 'absent.pth'"),
        (["--from", "nothing"], 2, "nothing is no repository on the Hub"),
        (["--from", "ann/unknown"], 1, "no gates of a kind that is known (trimkv, kvzap, locret, fast_kvzip)"),
        (["--from", "ann/wide"], 1, "its gates have 64 as an embedding length"),
        (["--out", "there.gguf"], 1, "there.gguf is there already; --force replaces it"),
        (["--out", "absent/o.gguf"], 2, "absent/o.gguf cannot be written: its folder is missing"),
        (["--out", "./m.gguf", "--force"], 2, "m.gguf is the base model, which would be lost"),
        (["--outtype", "q4_0"], 2, "outtype 'q4_0' is not one of f32, f16, q8_0"),
        (["--revision", "v9"], 1, "ann/tiny-gates has no such branch, tag or commit"),
        (["--registry", "absent.json"], 1, "absent.json cannot be read: No such file"),
    ],
)
def test_mistakes(home: Path, hub: Hub, arguments: list[str], status: int, message: str) -> None:
    (home / "there.gguf").write_bytes(b"something")
    done = run(home, "gates", "pull", "m.gguf", *arguments, **online(hub, home))
    assert done.returncode == status, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in home.glob("*.gguf")) == ["m.gguf", "there.gguf"]
    assert (home / "there.gguf").read_bytes() == b"something"


def test_a_full_disk_leaves_nothing(home: Path, hub: Hub) -> None:
    first = run(home, "gates", "pull", "m.gguf", "--out", "whole.gguf", **online(hub, home))  # fills the Hub's cache
    assert first.returncode == 0
    n_bytes = (home / "whole.gguf").stat().st_size

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes // 2, n_bytes // 2))

    done = subprocess.run(
        [*COMMAND, "gates", "pull", "m.gguf"],
        cwd=home, env=environment(home, **online(hub, home)), capture_output=True, text=True, timeout=TIMEOUT_S,
        preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 1 and "m.gates.gguf cannot be written: " in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in home.glob("*.gguf")) == ["m.gguf", "whole.gguf"]


def test_a_model_without_published_gates(home: Path, hub: Hub) -> None:
    other = write_tiny_model(home / "other.gguf", TINY_MODELS["llama"])
    done = run(home, "gates", "pull", other, **online(hub, home))
    assert done.returncode == 1 and "no published gates are known for tiny model (other.gguf)" in done.stderr
    assert "gates calibrate" in done.stderr and hub.downloads == []
    (home / "config" / "retain-local" / "gates.json").write_text(json.dumps([OURS | {"base": "someone/large-model"}]))
    done = run(home, "gates", "list", "m.gguf", **online(hub, home))
    assert done.returncode == 1 and "those for someone/large-model have its sizes" in done.stderr
    assert "--from: ann/tiny-gates" in done.stderr


def test_list(home: Path) -> None:
    settings = {"XDG_CONFIG_HOME": str(home / "config")}
    done = run(home, "gates", "list", **settings)
    assert done.returncode == 0 and done.stdout.startswith("someone/tiny-model\n  ann/tiny-gates: trimkv, licence mit")
    assert "  nvidia/KVzap-mlp-Qwen3-8B: kvzap, licence apache-2.0" in done.stdout
    done = run(home, "gates", "list", "m.gguf", "--json", **settings)
    assert [entry["hub"] for entry in json.loads(done.stdout)] == ["ann/tiny-gates", "ann/second"]
    (home / "own.json").write_text(done.stdout)
    assert [gates.hub for gates in read_list(home / "own.json")] == ["ann/tiny-gates", "ann/second"]


def test_who_runs_without_gates_is_told_of_published_ones_and_nothing_is_fetched(home: Path, hub: Hub) -> None:
    asked = ["run", "m.gguf", *FAST, "-p", "hello", "--max-tokens", "4"]
    hint = (
        "gates for this model are published (ann/tiny-gates, licence mit, and 1 more): `retain-local gates pull m.gguf`"
    )
    done = run(home, *asked, **online(hub, home))
    assert done.returncode == 0 and sum(hint in line for line in done.stderr.splitlines()) == 1, done.stderr
    chat = run(home, "chat", "m.gguf", *FAST, stdin="/quit\n", **online(hub, home))
    assert chat.returncode == 0 and sum(hint in line for line in chat.stderr.splitlines()) == 1, chat.stderr
    assert hub.downloads == [] and not (home / "m.gates.gguf").exists()
    for more in (["--policy", "window"], ["--gates", "none"]):
        assert "published" not in run(home, *asked, *more, **online(hub, home)).stderr
    (home / "config" / "retain-local" / "gates.json").write_text("{")
    done = run(home, *asked, **online(hub, home))
    assert done.returncode == 0 and "gates.json: not a JSON file" in done.stderr


def test_the_tiny_model_is_what_its_metadata_says(home: Path) -> None:
    """The tests above match it by its name, in its metadata alone: its file has another."""
    model = read_model_file(home / "m.gguf")
    assert (model.name, model.stem) == ("tiny model", "m")
