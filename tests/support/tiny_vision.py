"""Tiny vision models with random weights: a text model, and the projector (mmproj) that reads pictures for it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from support.tiny_models import TinyModel, write_tiny_model

# renders parts as the templates of vision models do: a text as it is, a picture as its mark
VISION_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class TinyProjector:
    """The shape of a tiny projector.

    type : as llama.cpp names it.
    patch_size, image_size : pixels of a side; a projector that takes any size takes image_size for its position table.
    n_merge : patches of a side that one token is made of.
    n_deepstack : layers whose features go into layers of the text model.
    """

    type: str
    patch_size: int = 14
    image_size: int = 112
    n_embd: int = 32
    n_head: int = 2
    n_ff: int = 48
    n_layer: int = 2
    n_merge: int = 2
    n_deepstack: int = 0
    seed: int = 0


@dataclass(frozen=True)
class TinyVision:
    """A text model and its projector."""

    text: TinyModel
    projector: TinyProjector

    @property
    def is_causal(self) -> bool:
        """Whether the tokens of a picture see those before them alone."""
        return self.projector.type != "gemma3"


TINY_VISION = {
    # each picture has one position in time, and its sides in space
    "qwen2vl": TinyVision(
        TinyModel(
            "qwen2vl",
            seed=2,
            n_embd=128,
            head_size=32,
            qkv_bias=True,
            metadata={"rope.dimension_sections": [4, 6, 6, 0]},
        ),
        TinyProjector("qwen2vl_merger"),
    ),
    # the same, with features for the text model's first layers
    "qwen3vl": TinyVision(
        TinyModel(
            "qwen3vl",
            seed=3,
            n_layer=3,
            n_head_kv=1,
            head_size=32,
            qk_norm="head",
            metadata={"rope.dimension_sections": [6, 5, 5, 0], "n_deepstack_layers": 1},
        ),
        TinyProjector("qwen3vl_merger", n_deepstack=1),
    ),
    # its tokens see each other; two layers of three have a sliding window
    "gemma3": TinyVision(
        TinyModel(
            "gemma3",
            seed=46,
            n_layer=3,
            head_size=64,
            qk_norm="head",
            post_norm=True,
            tied_output=True,
            embedding_gain=0.25,
            metadata={"attention.sliding_window": 24, "attention.sliding_window_pattern": 3},
        ),
        TinyProjector("gemma3", image_size=224),
    ),
    # one position a token, as text has
    "janus_pro": TinyVision(TinyModel("llama", seed=87, n_layer=3, n_head=8), TinyProjector("janus_pro")),
}


def write_tiny_vision(folder: Path, vision: TinyVision) -> tuple[Path, Path]:
    """Write both files as users have them, side by side; returns the text model's and the projector's."""
    model = folder / f"{vision.projector.type}.gguf"
    write_tiny_model(model, vision.text, chat_template=VISION_TEMPLATE)
    return model, write_tiny_projector(folder / f"mmproj-{vision.projector.type}.gguf", vision)


def write_tiny_projector(path: Path, vision: TinyVision, has_vision: bool = True) -> Path:
    """Write the projector of a tiny vision model."""
    shape = vision.projector
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", has_vision)
    writer.add_string("clip.projector_type", shape.type)
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "block_count": shape.n_layer,
        "projection_dim": vision.text.n_embd,
        "attention.head_count": shape.n_head,
        "spatial_merge_size": shape.n_merge,
        "projector.scale_factor": shape.n_merge,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    for name, array in _tensors(vision):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(vision: TinyVision) -> Iterator[tuple[str, np.ndarray]]:
    shape, n_text = vision.projector, vision.text.n_embd
    n, n_ff, n_patches = shape.n_embd, shape.n_ff, (shape.image_size // shape.patch_size) ** 2
    n_merged = n * shape.n_merge**2

    def normal(name: str, *dims: int, std: float, mean: float = 0.0) -> tuple[str, np.ndarray]:
        rng = np.random.default_rng([shape.seed, zlib.crc32(name.encode())])
        return name, (mean + std * rng.standard_normal(dims)).astype(np.float32)

    def linear(name: str, n_out: int, n_in: int, gain: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", n_out, n_in, std=gain / n_in**0.5)
        yield normal(f"{name}.bias", n_out, std=0.1)

    def norm(name: str) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", n, std=0.1, mean=1.0)
        yield normal(f"{name}.bias", n, std=0.1)

    patch = (n, 3, shape.patch_size, shape.patch_size)
    std = (3 * shape.patch_size**2) ** -0.5
    yield normal("v.patch_embd.weight", *patch, std=4 * std)
    if shape.type.startswith("qwen"):
        yield normal("v.patch_embd.weight.1", *patch, std=4 * std)
    if shape.type != "qwen2vl_merger":
        yield normal("v.patch_embd.bias", n, std=0.1)
        yield normal("v.position_embd.weight", n_patches, n, std=0.5)
    for il in range(shape.n_layer):
        blk = f"v.blk.{il}"
        yield from norm(f"{blk}.ln1")
        yield from norm(f"{blk}.ln2")
        if shape.type == "qwen3vl_merger":
            yield from linear(f"{blk}.attn_qkv", 3 * n, n)
        else:
            for part in "qkv":
                yield from linear(f"{blk}.attn_{part}", n, n)
        yield from linear(f"{blk}.attn_out", n, n)
        yield from linear(f"{blk}.ffn_up", n_ff, n)
        yield from linear(f"{blk}.ffn_down", n, n_ff)
    for il in range(shape.n_deepstack):
        yield normal(f"v.deepstack.{il}.norm.weight", n_merged, std=0.1, mean=1.0)
        yield normal(f"v.deepstack.{il}.norm.bias", n_merged, std=0.1)
        yield from linear(f"v.deepstack.{il}.fc1", n_merged, n_merged)
        yield from linear(f"v.deepstack.{il}.fc2", n_text, n_merged)
    yield from norm("v.post_ln")
    if shape.type == "gemma3":
        yield normal("mm.input_projection.weight", n, n_text, std=2 / n**0.5)
        yield normal("mm.soft_emb_norm.weight", n, std=0.1, mean=1.0)
    elif shape.type.startswith("qwen"):
        yield from linear("mm.0", n_merged, n_merged)
        yield from linear("mm.2", n_text, n_merged, 3.0)
    else:
        yield from linear("mm.0", n_text, n)
        yield from linear("mm.1", n_text, n_text, 3.0)
