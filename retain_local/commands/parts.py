"""Which options each command has: tables, and what a command leaves out of them or has otherwise."""

from __future__ import annotations

from ..audit.options import AuditOptions
from ..bench.options import BenchOptions
from ..chat.sampling import Sampling
from ..evaluation.options import EvalOptions, TaskOptions
from ..options.model_options import ModelOptions
from ..options.retention_options import RetentionOptions
from ..report.options import ReportOptions
from ..server.options import ServeOptions
from .options import Part

_THREADS = "How many CPU threads to use. (default: 1 for a model below 32 MB, else half of the CPUs for decode, all for prefill)"
_CACHE, _MODEL = Part(RetentionOptions), Part(ModelOptions, texts={"n_threads": _THREADS})
# the batch follows, nobody types messages, and texts have no pictures
_MEASURED = _MODEL.but("n_batch", "control_tokens_in_messages", "mmproj")

CHAT = {"cache": _CACHE.but(archive="auto"), "loading": _MODEL, "sampling": Part(Sampling)}

SERVE = {
    "cache": _CACHE.but(
        "prefill",
        texts={
            "budget": "Cells that each slot keeps per (layer, KV head): a number, a share of the context (1/4, 25%), the size of"
            " the cache of all slots (512MiB), or auto (what audit recommended). (default: 2048; the context if that is shorter or"
            " the policy is none)",
            "pin_system": "Never evict the system messages of a request.",
        },
    ),
    "serving": Part(ServeOptions),
}

EVAL = {
    "options": Part(EvalOptions),
    "report": Part(ReportOptions),
    "generated": Part(TaskOptions),
    # what is recalled is an axis, and several caches are open at once
    "cache": _CACHE.but("budget", "policy", "pin_system", "recall", "archive_file", buffer=16, n_ubatch=64),
    "loading": _MEASURED.but(
        "rope_freq_base",
        texts={
            "n_ctx": "The context in tokens; 0 is as many as the task needs, up to what the model was trained for.",
            "n_threads": "How many CPU threads each job uses. (default: 1 for a model of less than 32 MB, else the cores shared"
            " by the jobs)",
        },
    ),
}

RESULTS = {"report": Part(ReportOptions)}

AUDIT = {
    "options": Part(AuditOptions),
    "report": Part(ReportOptions),
    "cache": _CACHE.but(
        "budget",
        "prefill",
        "pin_system",
        "recall",
        "archive_file",
        buffer=128,
        n_ubatch=128,
        texts={
            "n_ubatch": "How many tokens are computed at once, with evictions between. If it is at most --buffer, a token of"
            " the text sees as few cells as a generated one does."
        },
    ),
    "loading": _MODEL.but("n_batch", "control_tokens_in_messages"),
}

BENCH = {
    "options": Part(BenchOptions),
    "cache": _CACHE.only("budget", "buffer", "gates", "archive", "recall", "archive_type", "n_ubatch").but(
        budget="2048",
        buffer=128,
        n_ubatch=512,
        texts={
            "budget": "Cells to keep per (layer, KV head) on average: a number, a share of the largest depth (1/4, 25%), the size"
            " of the whole cache (512MiB), or auto (what audit recommended)."
        },
    ),
    "loading": _MEASURED.but(
        "n_ctx", "rope_freq_base", "verbose", texts={"n_threads": "How many CPU threads to use. (default: all CPUs)"}
    ),
}
