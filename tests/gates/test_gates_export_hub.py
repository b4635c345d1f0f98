"""Exporting gates from a repository on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retain_local.gates import read_sidecar
from support.checkpoints import GatedModel, assert_holds, config_for, save_checkpoint
from support.command_line import run
from support.hub_server import COMMIT, Hub, serving
from support.tiny_models import TINY_MODELS

MODEL = TINY_MODELS["qwen3"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    repos = {}
    for format in ("torch", "sharded"):
        folder = save_checkpoint(tmp_path / "made" / format, GatedModel(MODEL), config_for(MODEL), format)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
        repos[f"ann/{format}"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    repos["ann/torch"]["model.safetensors"] = b"the base model, which is not wanted"
    repos["ann/torch"]["sub/other.pth"] = b"not at the root"
    repos["ann/models"] = {"README.md": b"", "m.gguf": b"GGUF"}
    with serving(Hub(repos, gated={"ann/secret"})) as hub:
        yield hub


def online(hub: Hub, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "5", **more}


@pytest.mark.parametrize("format, n_files", [("torch", 3), ("sharded", 5)])
def test_a_repository(tmp_path: Path, hub: Hub, format: str, n_files: int) -> None:
    done = run(tmp_path, "gates", "export", f"ann/{format}", "out.gguf", "--outtype", "f32", **online(hub))
    assert done.returncode == 0, done.stderr
    assert_holds(tmp_path / "out.gguf", GatedModel(MODEL))
    info = read_sidecar(tmp_path / "out.gguf").info
    assert (info.source, info.license) == (f"ann/{format}@{COMMIT}", "mit")
    assert len(hub.downloads) == n_files and "model.safetensors" not in dict(hub.downloads)
    # what was fetched is not fetched again, and serves without a connection
    for more in (online(hub), online(hub, HF_HUB_OFFLINE="1"), {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        done = run(tmp_path, "gates", "export", f"ann/{format}", "out.gguf", "--force", **more)
        assert done.returncode == 0, done.stderr
        assert read_sidecar(tmp_path / "out.gguf").info.source == f"ann/{format}@{COMMIT}"
    assert len(hub.downloads) == n_files


def test_an_interrupted_download_goes_on(tmp_path: Path, hub: Hub) -> None:
    hub.repos["ann/torch"]["trimkv_weights.pth"] += bytes(25_000_000)  # a comment at the end of the archive, too long
    hub.break_after = 22_000_000
    done = run(tmp_path, "gates", "export", "ann/torch", "out.gguf", **online(hub))
    assert done.returncode == 1 and "run the same command to resume it" in done.stderr
    hub.break_after, hub.downloads = None, []
    done = run(tmp_path, "gates", "export", "ann/torch", "out.gguf", **online(hub))
    ((name, first),) = hub.downloads
    assert name == "trimkv_weights.pth" and first > 0
    assert done.returncode == 1 and "trimkv_weights.pth: the file is truncated or damaged" in done.stderr


def test_revisions(tmp_path: Path, hub: Hub) -> None:
    for revision in ("v1", COMMIT):
        done = run(
            tmp_path, "gates", "export", "ann/torch", "out.gguf", "--force", "--revision", revision, **online(hub)
        )
        assert done.returncode == 0, done.stderr
    done = run(tmp_path, "gates", "export", "ann/torch", "x.gguf", "--revision", "v9", **online(hub))
    assert done.returncode == 1 and "ann/torch has no such branch, tag or commit" in done.stderr
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    "repo, message",
    [
        ("ann/absent", "neither a file here nor a repository"),
        ("ann/secret", "is gated"),
        ("ann/models", "ann/models: looked for a checkpoint"),
    ],
)
def test_repositories_without_gates(tmp_path: Path, hub: Hub, repo: str, message: str) -> None:
    done = run(tmp_path, "gates", "export", repo, "out.gguf", **online(hub))
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_what_is_here_comes_first(tmp_path: Path, hub: Hub) -> None:
    gated = GatedModel(MODEL, seed=1)
    save_checkpoint(tmp_path / "ann" / "torch", gated, config_for(MODEL), "torch")
    done = run(tmp_path, "gates", "export", "ann/torch", "out.gguf", "--outtype", "f32", **online(hub))
    assert done.returncode == 0 and hub.downloads == []
    assert_holds(tmp_path / "out.gguf", gated)
