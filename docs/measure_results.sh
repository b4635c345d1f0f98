#!/bin/sh
# Measures what docs/results.md shows, with the bundled model and the folder that
# `python -m retain_local.gates.bundled --out DIR --ablations` made.
#
#     docs/measure_results.sh DIR OUT [JOBS]
#
# A run that was stopped goes on. Then `retain-local results OUT/*.jsonl --markdown` prints the tables.
set -eu
dir=$1 out=$2 jobs=${3:-2}
learned=single,several,hops2,hops3,changes,decoys
budgets=1/2,1/4,1/8,1/16,1/32
mkdir -p "$out"

measure() {  # NAME TASKS POLICIES OPTIONS...
    name=$1 tasks=$2 policies=$3
    shift 3
    retain-local eval "$dir/bundled.gguf" --tasks "$tasks" --policies "$policies" --budgets "$budgets" --items 504 \
        --sinks 0 --jobs "$jobs" --json "$out/$name.jsonl" "$@" > "$out/$name.txt"
}

measure tied "$learned,lookup,counting,copying" gate,gate:head,window,random
measure untied "$learned" gate --gates "$dir/gates/untied/bundled.gates.gguf"
measure no-capacity "$learned" gate --gates "$dir/gates/no-capacity/bundled.gates.gguf"
measure full-prefill "$learned" gate --prefill full
