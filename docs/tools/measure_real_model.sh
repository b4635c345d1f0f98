#!/bin/sh
# Measures what docs/results.md shows of a real model: the divergence of small caches from the full one on texts of some kinds,
# with gates that `gates calibrate` made, with trained ones where they are given, and without any.
#
#     docs/tools/measure_real_model.sh MODEL TEXTS OUT CALIBRATED [TRAINED]
#
# TEXTS is the folder that docs/tools/real_texts.py wrote; CALIBRATED and TRAINED are gates. KINDS names texts, WINDOWS how many
# windows of 4,096 tokens are read of each, BUDGETS, GATE (gate, gate:head or both) and POLICIES what is compared. A run that was stopped
# goes on.
# `retain-local results OUT/WINDOWS-calibrated.jsonl trained=OUT/WINDOWS-trained.jsonl` prints the tables.
set -eu
model=$1 texts=$2 out=$3 calibrated=$4 trained=${5:-}
windows=${WINDOWS:-3} gate=${GATE:-gate}
mkdir -p "$out"

measure() {  # NAME GATES POLICIES
    for kind in $(echo "${KINDS:-chat,prose,code}" | tr , ' '); do
        retain-local eval "$model" --tasks "text:$texts/$kind.txt" --tokens 4096 --items "$windows" \
            --budgets "${BUDGETS:-1/4,1/8,1/16}" --policies "$3" --gates "$2" --threads 1 --json "$out/$windows-$1.jsonl"
    done
}

measure calibrated "$calibrated" "$gate,${POLICIES:-window,snapkv:head}"
if [ -n "$trained" ]; then
    measure trained "$trained" "$gate"
fi
