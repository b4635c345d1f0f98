"""Ask the same question with two policies in the same budget, and with the full cache.

python docs/examples/compare_policies.py [MODEL]
"""

from __future__ import annotations

import sys

from retain_local import Llama
from retain_local.paths import BUNDLED_MODEL
from retain_local.tasks import TASKS

SETTINGS = {
    "full cache": {"policy": "none"},
    "gate, 1/8": {"policy": "gate", "budget": 96},
    "window, 1/8": {"policy": "window", "budget": 96},
}


def main(model: str) -> None:
    item = TASKS["single"].item(3)
    question = item.questions[0]
    conversation = [*item.messages, {"role": "user", "content": question.text}]
    print(f"{question.text}  (right: {', '.join(question.values[0])})")
    for label, options in SETTINGS.items():
        llm = Llama(model, n_ctx=1024, buffer=16, n_ubatch=16, **options)
        reply = llm.create_chat_completion(conversation, max_tokens=24, temperature=0)
        text = reply["choices"][0]["message"]["content"].strip()
        print(f"{label:12} {llm.retention.stats().cells_kept:7,} cells   {text}")
        llm.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(BUNDLED_MODEL))
