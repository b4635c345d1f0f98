"""Keep a part of the text for ever, whatever comes after it.

python docs/examples/pinning.py [MODEL]
"""

from __future__ import annotations

import sys

from retain_local import Llama
from retain_local.paths import BUNDLED_MODEL

RULES = "Answer in one short sentence. Never name a person. "
STORY = "They walked along the river, and the lamps went out one after the other. " * 12


def main(model: str) -> None:
    llm = Llama(model, budget=64, buffer=16, n_ubatch=16, n_ctx=512)
    n_rules = len(llm.tokenize(RULES.encode()))
    llm.retention.pin(0, n_rules)
    llm.create_completion(RULES + STORY, max_tokens=1, temperature=0)
    for layer in llm.retention.layers:
        for head in range(llm.retention.heads(layer)):
            kept = set(llm.retention.positions(layer, head).tolist())
            assert kept >= set(range(n_rules)), f"layer {layer}, head {head} lost a pinned cell"
    stats = llm.retention.stats()
    print(f"all {n_rules} tokens of the rules are kept in every head, among {stats.tokens_seen} that were read")
    llm.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(BUNDLED_MODEL))
