#!/bin/sh
# Measures what docs/performance.md shows, on an otherwise idle machine; it takes about an hour and a quarter on two cores.
#
#     docs/tools/measure_performance.sh OUT
#
# Run it in an environment that retain-local is installed in. A part whose numbers are there already is skipped.
set -eu
out=$1
native=$(dirname "$0")/../../native
mkdir -p "$out"

for shape in qwen3-0.6b llama-3.2-1b; do
    for type in q4_0 q8_0; do
        model=$out/$shape-$type
        [ -e "$model.gates.gguf" ] && continue
        python "$native/bench/make_model.py" $shape $type --out "$model.gguf"
        python "$native/bench/make_gates.py" "$model.gguf"
    done
done

measure() {  # NAME MODEL OPTIONS...
    name=$1 model=$out/$2.gguf
    shift 2
    [ -e "$out/$name.json" ] && return
    retain-local bench "$model" --threads 2 --tokens 24 --repeat 4 --json "$out/$name.json" --plot "$out/$name.png" "$@" \
        > "$out/$name.txt"
}

micro() {  # NAME PROGRAM OPTIONS...
    name=$1 program=$2
    shift 2
    [ -e "$out/$name.txt" ] && return
    "$bench/bench-$program" "$@" > "$out/$name.part"
    mv "$out/$name.part" "$out/$name.txt"
}

measure depth      qwen3-0.6b-q4_0   --vs-stock --depths 512,2048,4096,8192,32768 --budget 2048 --repeat 3
measure flat       qwen3-0.6b-q4_0              --depths 4096,32768,131072        --budget 2048 --tokens 128
measure whole      qwen3-0.6b-q4_0   --vs-stock --depths 512,4096,8192            --budget 16384
measure q8-cells   qwen3-0.6b-q4_0   --vs-stock --depths 512,2048,4096            --budget 2048 --type-k q8_0 --type-v q8_0
measure q4-cells   qwen3-0.6b-q4_0              --depths 512,2048,4096,32768      --budget 2048 --type-k q4_0 --type-v q4_0 --ubatch 256
measure llama      llama-3.2-1b-q4_0 --vs-stock --depths 512,2048,4096            --budget 2048
measure q8-weights qwen3-0.6b-q8_0   --vs-stock --depths 512,2048,4096            --budget 2048

if [ ! -e "$out/in-turn.txt" ]; then
    python "$native/bench/flat.py" "$out/qwen3-0.6b-q4_0.gguf" > "$out/in-turn.part"
    mv "$out/in-turn.part" "$out/in-turn.txt"
fi

bench=$(python "$native/builder" bench)
micro attention  attention --types f16,bf16,q8_0,q4_0 --heads 64,128 --cells 2048 --tokens 1,512 --threads 2
micro pages      attention --types f16 --cells 512,2048,8192 --pages 16,32,64,128,256 --tokens 1 --threads 2
micro pages-q4   attention --types q4_0 --cells 512,2048,8192 --pages 16,32,64,128,256 --tokens 1 --threads 2
micro small-mem  attention --types f16 --cells 512,2048,8192 --pages 16,32,64,128,256 --tokens 1 --threads 2 --huge 0
micro apart      attention --types f16 --cells 512,2048,8192 --pages 16,32,64,128,256 --tokens 1 --threads 2 --apart 1
micro scoring    scoring --threads 2
micro selection  selection
