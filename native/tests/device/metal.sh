#!/usr/bin/env bash
# Check the Metal kernels' types and address spaces, without a Mac: bash native/tests/device/metal.sh [CLANG]
# Clang reads them as C++ for OpenCL (14 or later; Debian, Ubuntu: apt install clang). Without it the script says so and does nothing.
set -euo pipefail
native=$(cd "$(dirname "$0")/../.." && pwd)
clang=${1:-clang}
if ! command -v "$clang" >/dev/null; then
    echo "skipped: $clang is not installed"
    exit 0
fi
source=$(mktemp --suffix=.clcpp)
trap 'rm "$source"' EXIT
# names that Metal gives to instances of templates are an attribute that no other compiler takes in that place
cat "$native"/tests/emulation/metal-opencl.h "$native"/ggml-metal/retention-{args.h,rows.metal,store.metal,decode.metal,prompt.metal} |
    sed -e '/#pragma once/d' -e 's/template \[\[host_name(.*)\]\]/template/' >"$source"
"$clang" -x clcpp -cl-std=CLC++2021 -target spir64 -fsyntax-only -w "$source"
echo "the Metal kernels compile as C++ for OpenCL"
