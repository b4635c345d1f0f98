#!/bin/sh
# Measures what docs/results.md shows of recall: the bundled model's tasks, questions one after the other in one conversation, and
# the divergence of a real model from the full cache on a text, each with and without recall at the same budgets.
#
#     docs/tools/measure_recall.sh OUT [MODEL GATES TEXT RULER]
#
# MODEL is a real model with GATES, TEXT a text of 2,050 tokens at least that the gates were not made of, and RULER a file of
# questions about keys (keys-4.jsonl of real_texts.py). ITEMS and KEYS (questions of a task, and about keys), BUDGETS, TOKENS and
# WINDOWS may be set. A run that was stopped goes on. `retain-local results OUT/tasks.jsonl --markdown` prints a part's tables again.
set -eu
out=$1 budgets=${BUDGETS:-1/8,1/16,1/32}
mkdir -p "$out"

measure() {  # NAME MODEL OPTIONS...
    name=$1 model=$2
    shift 2
    retain-local eval "$model" --policies gate,window --jobs 1 --json "$out/$name.jsonl" "$@" > "$out/$name.txt"
}

measure tasks bundled --tasks single,several,hops2,hops3,changes,decoys --items "${ITEMS:-48}" --seed 1 --budgets "$budgets" \
    --sinks 0 --ubatch 16 --buffer 16 --archive 64MiB
measure keys bundled --tasks lookup,several --items "${KEYS:-192}" --seed 1 --budgets "$budgets" \
    --sinks 0 --ubatch 16 --buffer 16 --archive 64MiB
measure keys-q4_0 bundled --tasks lookup --items "${KEYS:-192}" --seed 1 --budgets "$budgets" \
    --sinks 0 --ubatch 16 --buffer 16 --archive 64MiB --archive-type q4_0
python "$(dirname "$0")/measure_turns.py" --conversations 24 > "$out/turns.txt"
if [ $# -ge 5 ]; then
    measure ruler "$2" --gates "$3" --tasks "ruler/qa:$5" --items "${RULER_ITEMS:-24}" --budgets 1/8 --ubatch 16 --buffer 16 \
        --threads 1 --archive 64MiB
fi
if [ $# -ge 4 ]; then
    for type in q4_0 q8_0; do
        measure "text-$type" "$2" --gates "$3" --tasks "text:$4" --tokens "${TOKENS:-2050}" --items "${WINDOWS:-1}" \
            --budgets 1/8,1/16 --ubatch 128 --buffer 128 --archive 256MiB --archive-type "$type" --recall 0,25%,50%
    done
fi
