#!/bin/sh
# Measures what docs/results.md shows of a real model: the divergence of small caches from the full one on prose, a chat and
# code, with gates that `gates calibrate` makes, with other gates where they are given, and without any.
#
#     docs/tools/measure_real_model.sh MODEL TEXTS OUT [GATES]
#
# TEXTS is the folder that docs/tools/real_texts.py wrote. TOKENS, ITEMS and BUDGETS are those of the windows that are read.
# A run that was stopped goes on. `retain-local results OUT/calibrated.jsonl trained=OUT/given.jsonl` prints the tables.
set -eu
model=$1 texts=$2 out=$3 given=${4:-}
tokens=${TOKENS:-1024} items=${ITEMS:-2} budgets=${BUDGETS:-1/4,1/8}
tasks=text:$texts/prose.txt,text:$texts/chat.txt,text:$texts/code.txt
mkdir -p "$out"

if [ ! -e "$out/calibrated.gates.gguf" ]; then
    retain-local gates calibrate "$model" --out "$out/calibrated.gates.gguf"
fi

measure() {  # NAME POLICIES OPTIONS...
    name=$1 policies=$2
    shift 2
    retain-local eval "$model" --tasks "$tasks" --tokens "$tokens" --items "$items" --budgets "$budgets" \
        --policies "$policies" --jobs 1 --json "$out/$name.jsonl" "$@" > "$out/$name.txt"
}

measure calibrated gate,window,snapkv:head --gates "$out/calibrated.gates.gguf"
if [ -n "$given" ]; then
    measure given gate --gates "$given"
fi
