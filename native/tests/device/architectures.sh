#!/usr/bin/env bash
# Compile the CUDA kernels for every architecture that we promise, without linking: bash native/tests/device/architectures.sh [TREE]
# TREE is a patched llama.cpp; without it the builder's is used. Without nvcc it says so and does nothing.
set -euo pipefail
native=$(cd "$(dirname "$0")/../.." && pwd)
if ! command -v nvcc >/dev/null; then
    echo "skipped: nvcc is not installed"
    exit 0
fi
tree=${1:-$(dirname "$(dirname "$(dirname "$(python "$native/builder" libs | tail -1)")")")/llama.cpp}
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
targets=()
for arch in 75 80 86 89 90 120; do
    targets+=(-gencode "arch=compute_$arch,code=sm_$arch")
done
# ggml's own headers include cuBLAS's: where those are elsewhere, NVCC_FLAGS="-I FOLDER" says so
for source in "$native"/ggml-cuda/*.cu; do
    nvcc -std=c++17 -O3 -use_fast_math -extended-lambda -w "${targets[@]}" -I "$native/ggml-cuda" -I "$native/ggml" \
        -I "$tree/ggml/src/ggml-cuda" -I "$tree/ggml/src" -I "$tree/ggml/include" ${NVCC_FLAGS:-} -c "$source" -o "$out/object.o"
    echo "compiled $(basename "$source") for 6 architectures"
done
