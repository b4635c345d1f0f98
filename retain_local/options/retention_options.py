"""The retention options of a model: as a caller gives them, and as the native library takes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RetainError, UsageError
from .archive import (
    ARCHIVE_TYPES,
    AUTO_ARCHIVE,
    AUTO_BYTES,
    AUTO_TYPE,
    DEFAULT_RECALL,
    NO_ARCHIVE,
    WITHOUT_ARCHIVE,
    automatic_archive,
    automatic_type,
    parse_archive,
    parse_recall,
    residents,
    share_text,
    size_text,
)
from .budget import AUTO_BUDGET, Budget, parse_budget
from .table import check, option

if TYPE_CHECKING:
    from ..kv_types import KVType
    from ..models.model_file import ModelFile

SCOPES = ("global", "layer", "head")
PREFILLS = ("bounded", "full")
AUTO_GATES, NO_GATES = "auto", "none"  # any other word is a path

# A ubatch needs room in the pool beside the budget. On a CPU a prompt is read as fast in small ones: SmolLM2-135M (Q4_1,
# one thread, budget 256, window) reads 141, 148, 131, 148 and 138 tokens a second in ubatches of 512, 256, 128, 64 and 32.
_UBATCHES = (512, 256, 128, 64, 32)
_UBATCH_SHARE = 4  # the budget over a ubatch, at least

# what else than policy, scope and budget decides what a cache predicts
_SETTINGS = ("buffer", "sinks", "recent", "min_per_head", "lookahead")

_CACHE, _MACHINE = "Cache", "Machine"


def policies() -> tuple[str, ...]:
    """What the option `policy` may be: auto, and the policies of the native library."""
    from ..bindings import retain_h  # reading options must not load the library

    return ("auto", *retain_h.policies())


def _policy_help() -> str:
    from ..bindings import retain_h

    kept = ", ".join(f"{name} ({description})" for name, description in retain_h.policies().items())
    return f"Which cells are kept: {kept}, or auto (gate if there are gates, else window)."


@dataclass(frozen=True)
class RetentionOptions:
    """How a cache is kept in its budget: each field's `Option` says what it is.

    `gates` may also be None, which is "none"; `budget` is cells once it is resolved.
    """

    budget: int | str | None = option(
        None,
        "Cells to keep per (layer, KV head) on average: a number, a share of the context (1/4, 25%), the size of the"
        " whole cache (512MiB), or auto (what audit recommended).",
        _CACHE,
        str,
        unset="2048; the context if that is shorter or the policy is none",
    )
    buffer: int | None = option(
        None,
        "How many tokens may come in over the budget before an eviction runs. If it is smaller than a ubatch, evictions"
        " run at other places in a prompt than in generated text.",
        _CACHE,
        int,
        unset="the same as the ubatch",
        rare=True,
    )
    gates: str | os.PathLike[str] | None = option(
        AUTO_GATES,
        "The gate sidecar to use. auto takes MODEL.gates.gguf beside the model if it exists; none uses no gates.",
        _CACHE,
        str,
    )
    policy: str = option("auto", _policy_help, _CACHE, str, choices=policies)
    scope: str = option(
        "global",
        "Which cells compete for the budget: all cells of the model (global), those of one layer (layer), or those of one"
        " KV head of a layer (head).",
        _CACHE,
        str,
        choices=lambda: SCOPES,
        rare=True,
    )
    policy_seed: int = option(0, "The seed of the policy random.", _CACHE, int, rare=True)
    sinks: int = option(4, "How many of the first tokens are never evicted.", _CACHE, int, rare=True)
    recent: int = option(0, "How many of the newest tokens are never evicted.", _CACHE, int, rare=True)
    min_per_head: int = option(0, "How many cells every (layer, KV head) keeps at least.", _CACHE, int, rare=True)
    lookahead: int = option(1, "How many tokens the retention score looks ahead.", _CACHE, int, least=1, rare=True)
    prefill: str = option(
        "bounded",
        "When a prompt is evicted from: while it is read (bounded), or once after all of it was read, which needs the memory"
        " of the whole prompt (full).",
        _CACHE,
        str,
        choices=lambda: PREFILLS,
        rare=True,
    )
    archive: int | str = option(
        "0",
        "How many bytes of evicted cells to keep (512MiB), of which each token recalls what it asks for; 0: none. auto: up"
        " to 512MiB, none where the cells are on a GPU, the model's heads do not allow it or the budget is auto.",
        _CACHE,
        str,
    )
    recall: float | str | None = option(
        None,
        "The share of the budget that is for cells recalled from the archive; the rest stays in the cache.",
        _CACHE,
        str,
        unset="25% with an archive, else none",
        rare=True,
    )
    archive_type: str = option(
        AUTO_TYPE,
        "The type that archived K and V are stored in: q4_0, or q8_0, which takes twice the bytes. auto: q8_0 for heads of"
        " less than 128 numbers, else q4_0.",
        _CACHE,
        str,
        choices=lambda: (AUTO_TYPE, *ARCHIVE_TYPES),
        rare=True,
    )
    archive_file: str | os.PathLike[str] | None = option(
        None,
        "A file to keep the archive in, which is mapped into memory; it is made anew, and gone with the run.",
        _CACHE,
        str,
        unset="the archive is in memory",
        rare=True,
    )
    pin_system: bool = option(False, "Never evict the system message of a chat.", _CACHE, bool)
    n_ubatch: int | None = option(
        None,
        "How many tokens are computed at once (a ubatch). The cache has room for them besides the budget.",
        _MACHINE,
        int,
        least=1,
        flag="ubatch",
        unset="the largest of 512, 256, 128, 64 and 32 that is at most a quarter of the budget",
        rare=True,
    )

    def __post_init__(self) -> None:
        if self.gates == NO_GATES:
            object.__setattr__(self, "gates", None)
        if not isinstance(self.gates, (str, os.PathLike, type(None))):
            raise UsageError(f"gates {self.gates!r} is no path, and neither 'auto' nor 'none'")
        check(self)
        self._check_archive()

    def _check_archive(self) -> None:
        """Make the archive's size a number of bytes, and the share of recalled cells a number."""
        object.__setattr__(self, "archive", parse_archive(self.archive))
        if self.recall is not None:
            object.__setattr__(self, "recall", parse_recall(self.recall))
        if self.recall and not self.archive:
            raise UsageError(
                f"recall {share_text(self.recall_share)} needs an archive to recall from; give it a size, as in"
                " --archive 512MiB"
            )
        if self.archive_type != AUTO_TYPE and not self.archive:
            raise UsageError(
                f"archive-type {self.archive_type} is the type of an archive, and there is none; give it a size, as in"
                " --archive 512MiB"
            )
        if self.archive_file is None:
            return
        if not isinstance(self.archive_file, (str, os.PathLike)):
            raise UsageError(f"archive-file {self.archive_file!r} is no path")
        if not self.archive:
            raise UsageError(
                "archive-file names a file, and there is no archive; give it a size, as in --archive 512MiB"
            )
        path = Path(self.archive_file)
        if path.is_dir() or not path.parent.is_dir():
            wrong = "is a folder" if path.is_dir() else f"cannot be made: there is no folder {path.parent}"
            raise UsageError(f"archive-file {path} {wrong}")

    @property
    def recall_share(self) -> float:
        """The share of the budget for recalled cells; 0 without an archive."""
        if not self.archive:
            return float(self.recall or 0)
        return DEFAULT_RECALL if self.recall is None else float(self.recall)

    def residents(self, budget: int, n_ctx: int) -> int:
        """Cells of a budget that stay in the pool: all of them where nothing is recalled, or nothing evicted."""
        return budget if budget >= n_ctx or self.policy == "none" else residents(budget, self.recall_share)

    def resolve(
        self,
        model: ModelFile,
        *,
        n_ctx: int,
        type_k: KVType,
        type_v: KVType,
        n_batch: int = _UBATCHES[0],
        on_host: bool = True,
    ) -> RetentionOptions:
        """The same options with everything decided: the numbers, the sidecar's path or None, the policy.

        Parameters
        ----------
        n_batch : tokens of the largest ubatch, where none is given.
        on_host : whether the cells are in the memory of the CPU.

        Raises
        ------
        UsageError : a budget that is none, or too small for the sinks, recent window and minimum.
        RetainError : a sidecar that is missing, the policy "gate" without one, or "auto" without a recommendation.
        """
        decided = self._decide_policy(model)
        if self.archive and self.archive_type == AUTO_TYPE:
            decided = replace(decided, archive_type=automatic_type(model.head_k, model.head_v))
        budget, asked = self.budget, decided
        if self.policy == "none" and budget in (None, AUTO_BUDGET):
            budget = n_ctx
        elif budget == AUTO_BUDGET:
            from .recommendation import recommended_budget

            if self.archive == AUTO_ARCHIVE:  # decided first: a budget is recommended for the archive that there is
                decided = _archiving(asked, AUTO_BYTES if self._asks_for_archive else NO_ARCHIVE)
            budget = recommended_budget(model, decided, n_ctx=n_ctx, settings=settings_of(decided, type_k, type_v))
        is_size = budget is not None and Budget.parse(budget, sizes=True).size
        bytes_per_token = pool_bytes_of(model, type_k, type_v) if is_size else 1  # which nobody reads
        *larger, least = self._ubatches(n_batch, n_ctx)
        for n_ubatch in (*larger, least):
            try:
                cells = parse_budget(
                    budget,
                    n_ctx=n_ctx,
                    bytes_per_token=bytes_per_token,
                    n_room=max(n_ubatch if self.buffer is None else self.buffer, n_ubatch),
                )
            except UsageError:  # a size may be too small for the room of a large ubatch alone
                if n_ubatch == least:
                    raise
                continue
            if self.archive == AUTO_ARCHIVE:
                decided = _archiving(asked, self._automatic(model, cells, n_ubatch, on_host))
            kept = decided.residents(cells, n_ctx)
            if kept >= min(n_ubatch * _UBATCH_SHARE, n_ctx):  # one that covers the context needs no room beside it
                break
        room = (
            f"the budget of {cells} cells" if kept == cells else f"the {kept} cells of the budget that are not recalled"
        )
        if self.sinks + self.recent > kept:
            raise UsageError(f"sinks ({self.sinks}) and recent ({self.recent}) together are more than {room}")
        if self.min_per_head > kept:
            raise UsageError(f"min-per-head ({self.min_per_head}) is more than {room}")
        buffer = n_ubatch if self.buffer is None else self.buffer
        return replace(decided, budget=cells, buffer=buffer, n_ubatch=n_ubatch, recall=decided.recall_share)

    @property
    def _asks_for_archive(self) -> bool:
        """Whether there is to be an archive, though nobody gave its size."""
        return bool(self.recall or self.archive_file or self.archive_type != AUTO_TYPE)

    def _automatic(self, model: ModelFile, cells: int, n_ubatch: int, on_host: bool) -> int:
        """Bytes of an archive that nobody gave a size."""
        if self._asks_for_archive:  # if there can be none, that is said
            return AUTO_BYTES
        kept = residents(cells, self.recall_share)
        # a recommended budget was measured without
        if not on_host or self.budget == AUTO_BUDGET or self.policy == "none" or kept == cells:
            return NO_ARCHIVE
        n_room = max(n_ubatch, self.buffer or 0)
        return automatic_archive(sum(model.n_head_kv), model.head_k, model.head_v, kept, n_room)

    def _ubatches(self, n_batch: int, n_ctx: int) -> list[int]:
        """The ubatches to choose from, the largest first."""
        if self.n_ubatch is not None:
            return [min(self.n_ubatch, n_ctx)]
        most = min(n_batch, n_ctx)
        fit = most if self.buffer is None else min(most, self.buffer)
        return [n for n in _UBATCHES if n <= fit] or [min(_UBATCHES[-1], most)]

    def _decide_policy(self, model: ModelFile) -> RetentionOptions:
        gates = self._find_gates(model)
        if self.policy == "gate" and gates is None:
            path = model.sidecar_path()
            if self.gates is None and path.is_file():
                raise UsageError(f"the policy 'gate' needs gates, and 'none' leaves those at {path} out; use 'auto'")
            missing = "none are given" if self.gates is None else f"{path} does not exist"
            raise RetainError(
                f"the policy 'gate' needs gates, and {missing}; name a sidecar with gates, or use the policy 'window'"
            )
        policy = self.policy if self.policy != "auto" else "gate" if gates else "window"
        return replace(self, gates=gates, policy=policy)

    def _find_gates(self, model: ModelFile) -> Path | None:
        if self.gates is None:
            return None
        if os.fspath(self.gates) != AUTO_GATES:
            path = Path(self.gates)
            if not path.exists():
                raise RetainError(f"{path}: no such gate sidecar")
            if not path.is_file():
                raise RetainError(
                    f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}; name a gate sidecar"
                )
            return path
        # scoring costs time in every layer: a policy that does not use it is not given gates it did not ask for
        path = model.sidecar_path()
        return path if self.policy in ("auto", "gate") and path.is_file() else None


def _archiving(options: RetentionOptions, n_bytes: int) -> RetentionOptions:
    """The options with the size of the archive decided; without one, nothing is said of it."""
    return replace(options, **({"archive": n_bytes} if n_bytes else WITHOUT_ARCHIVE))


def settings_of(options: RetentionOptions, type_k: KVType, type_v: KVType) -> dict[str, int | str]:
    """What else than policy, scope and budget decides what a cache predicts, by name."""
    found = {name: getattr(options, name) for name in _SETTINGS} | {"type_k": type_k.name, "type_v": type_v.name}
    if options.recall_share:
        found |= {
            "recall": share_text(options.recall_share),
            "archive": size_text(options.archive),
            "archive_type": options.archive_type,
        }
    return found


def pool_bytes_of(model: ModelFile, type_k: KVType, type_v: KVType) -> int:
    """Bytes that a token takes in the pool; of a mixed model the native library is asked.

    Raises
    ------
    RetainError : the mixed model cannot be loaded.
    """
    if not model.is_mixed:
        return model.bytes_per_token(type_k, type_v)
    from ..bindings.pool_size import pool_bytes_per_token

    return pool_bytes_per_token(model.path, type_k, type_v)
