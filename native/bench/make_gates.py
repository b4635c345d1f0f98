"""Write a sidecar of random gates for a GGUF: speed does not depend on what they say.

    python native/bench/make_gates.py qwen3-0.6b-q4_0.gguf --type q8_0

Run it with the Python that retain-local is installed for. The sidecar goes beside the model, where it is found.
"""

import argparse
import pathlib

import numpy as np

from retain_local.gates import GateInfo, GateSet, LayerGate, Linear, base_fingerprint, write_sidecar
from retain_local.models.model_file import read_model_file

N_FF = 512  # the papers' width
START_BIAS = 4.0  # beta near 1, with some spread


def random_linear(rng, n_out, n_in, bias=0.0):
    weight = rng.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float32)
    return Linear(weight, np.full(n_out, bias, np.float32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--type", default="q8_0", choices=("f32", "f16", "q8_0"))
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    model = read_model_file(args.model)
    layers = tuple(
        LayerGate(random_linear(rng, N_FF, model.n_embd), random_linear(rng, N_FF, N_FF)) for _ in model.n_head_kv
    )
    gates = GateSet(layers, random_linear(rng, model.n_head_kv[0], N_FF, START_BIAS))
    info = GateInfo(model.architecture, name="random gates", base_fingerprint=base_fingerprint(args.model))
    write_sidecar(args.model.with_suffix(".gates.gguf"), gates, info, args.type)


if __name__ == "__main__":
    main()
