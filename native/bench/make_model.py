"""Write a GGUF of a real model's shape with random weights: speed does not depend on their values.

    python native/bench/make_model.py qwen3-0.6b q4_0 --out qwen3-0.6b-q4_0.gguf

The vocabulary is the one that upstream's source distribution holds for such models; --vocab takes that of another GGUF.
"""

import argparse
import contextlib
import pathlib
import sys
import tarfile
import tempfile
from dataclasses import dataclass

import gguf
import numpy as np

BLOCK = 32  # weights of a q4_0 or q8_0 block
STD = 0.02  # of the weights, as models are initialised


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, as its published configuration gives them."""

    arch: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_embd_head: int
    n_ff: int
    n_ctx: int
    rope_base: float
    vocab: str  # in models/ of llama.cpp


SHAPES = {
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 16, 8, 128, 3072, 131072, 1e6, "ggml-vocab-qwen2.gguf"),
    "qwen3-4b": Shape("qwen3", 36, 2560, 32, 8, 128, 9728, 131072, 1e6, "ggml-vocab-qwen2.gguf"),
    "llama-3.2-1b": Shape("llama", 16, 2048, 32, 8, 64, 8192, 131072, 5e5, "ggml-vocab-llama-bpe.gguf"),
}
TYPES = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def random_blocks(rng, n_rows, n_cols, kind):
    """Quantised random weights: uint8 [n_rows, bytes of a row]."""
    n_blocks = n_cols // BLOCK
    n_data, largest = (16, 4.6) if kind == "q4_0" else (32, 73.9)  # standard deviation of uniform 4 and 8 bit integers
    blocks = np.empty((n_rows, n_blocks, 2 + n_data), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(STD / largest).tobytes(), np.uint8)
    blocks[..., 2:] = rng.integers(0, 256, (n_rows, n_blocks, n_data), np.uint8)
    return blocks.reshape(n_rows, -1)


@contextlib.contextmanager
def upstream_vocabulary(name):
    """Path of a vocabulary, taken out of upstream's source distribution, which is fetched first if need be."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "builder"))
    import upstream
    from build import cache_directory

    if local := upstream.local_directory():
        yield local / "vendor/llama.cpp/models" / name
        return
    with tarfile.open(upstream.sdist(cache_directory())) as archive, tempfile.TemporaryDirectory() as folder:
        member = next(m for m in archive if m.name.endswith(f"/vendor/llama.cpp/models/{name}"))
        path = pathlib.Path(folder) / name
        path.write_bytes(archive.extractfile(member).read())
        yield path


def copy_vocabulary(writer, path):
    """Copy every tokenizer key; returns the number of tokens."""
    for field in gguf.GGUFReader(path).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
        if field.name == "tokenizer.ggml.tokens":
            n_vocab = len(field.contents())
    return n_vocab


def write_model(out, shape, kind, vocab, seed=0):
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, shape.arch)
    writer.add_name(pathlib.Path(out).stem)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.n_embd_head)
    writer.add_value_length(shape.n_embd_head)
    writer.add_rope_dimension_count(shape.n_embd_head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    n_vocab = copy_vocabulary(writer, vocab)
    writer.add_vocab_size(n_vocab)

    def matrix(name, n_rows, n_cols):
        writer.add_tensor(name, random_blocks(rng, n_rows, n_cols, kind), raw_dtype=TYPES[kind])

    def ones(name, n):
        writer.add_tensor(name, np.ones(n, np.float32))

    matrix("token_embd.weight", n_vocab, shape.n_embd)  # tied with the output, as in both published models
    ones("output_norm.weight", shape.n_embd)
    for layer in range(shape.n_layer):
        blk = f"blk.{layer}."
        ones(blk + "attn_norm.weight", shape.n_embd)
        matrix(blk + "attn_q.weight", shape.n_head * shape.n_embd_head, shape.n_embd)
        matrix(blk + "attn_k.weight", shape.n_head_kv * shape.n_embd_head, shape.n_embd)
        matrix(blk + "attn_v.weight", shape.n_head_kv * shape.n_embd_head, shape.n_embd)
        matrix(blk + "attn_output.weight", shape.n_embd, shape.n_head * shape.n_embd_head)
        if shape.arch == "qwen3":
            ones(blk + "attn_q_norm.weight", shape.n_embd_head)
            ones(blk + "attn_k_norm.weight", shape.n_embd_head)
        ones(blk + "ffn_norm.weight", shape.n_embd)
        matrix(blk + "ffn_gate.weight", shape.n_ff, shape.n_embd)
        matrix(blk + "ffn_up.weight", shape.n_ff, shape.n_embd)
        matrix(blk + "ffn_down.weight", shape.n_embd, shape.n_ff)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("--vocab", type=pathlib.Path, help="a GGUF whose vocabulary to take")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    if args.vocab and not args.vocab.is_file():
        parser.error(f"{args.vocab} is not there")
    if not args.out.absolute().parent.is_dir():
        parser.error(f"{args.out} cannot be written: its folder is missing")
    shape = SHAPES[args.shape]
    with contextlib.nullcontext(args.vocab) if args.vocab else upstream_vocabulary(shape.vocab) as vocab:
        try:
            write_model(args.out, shape, args.type, vocab)
        except ValueError as error:
            parser.error(f"{vocab} cannot be used: {error}")


if __name__ == "__main__":
    main()
