#!/bin/sh
# Measures what docs/results.md shows, with the folder that
# `python -m retain_local.gates.bundled --out DIR --ablations` made.
#
#     docs/tools/measure_results.sh DIR OUT [JOBS]
#
# A run that was stopped goes on. `retain-local results OUT/NAME.jsonl --markdown` prints the tables of one part.
set -eu
dir=$1 out=$2 jobs=${3:-2}
learned=single,several,hops2,hops3,changes,decoys
mkdir -p "$out"

measure() {  # NAME TASKS POLICIES OPTIONS...
    name=$1 tasks=$2 policies=$3
    shift 3
    retain-local eval "$dir/bundled.gguf" --tasks "$tasks" --policies "$policies" --budgets 1/2,1/4,1/8,1/16,1/32 \
        --items 504 --sinks 0 --ubatch 16 --buffer 16 --jobs "$jobs" --json "$out/$name.jsonl" "$@" > "$out/$name.txt"
}

measure tied "$learned,lookup,counting,copying" gate,gate:head
measure tied "$learned" random
measure window "$learned,lookup" window
measure untied "$learned" gate --gates "$dir/gates/untied/bundled.gates.gguf"
measure no-capacity "$learned" gate --gates "$dir/gates/no-capacity/bundled.gates.gguf"
measure full-prefill "$learned" gate --prefill full
# more versions of a fact than in training, where it changes at most twice; seed 0 is what the task was made on
for n in 2 4 6 8; do
    measure "superseded-$n" superseded gate,gate:head,window --changes "$n" --seed 1
done
measure distractors decoys gate --decoys 200 --tokens 2000 --ctx 4096

# a seed that no setting was chosen on, with the chunking above and with the one that eval has by default
measure seed1-ubatch16 "$learned" gate --seed 1
measure seed1-ubatch64 "$learned" gate --seed 1 --sinks 4 --ubatch 64
# past the trained context: is it the look-alikes or the length?
measure seed1-many "decoys" gate --seed 1 --decoys 200 --tokens 2000 --ctx 4096
measure seed1-few "decoys" gate --seed 1 --decoys 8 --tokens 2000 --ctx 4096
