"""The shares of recalled cells that `eval` and `audit` compare."""

from __future__ import annotations

from ..errors import UsageError
from ..options.archive import DEFAULT_RECALL, parse_recall, share_text
from ..options.retention_options import RetentionOptions


def recalls_of(text: str | None, retention: RetentionOptions) -> list[float]:
    """The shares as they are given, each once; None is with and without recall where there is an archive.

    Raises
    ------
    UsageError : one is no share, or needs an archive that is not there.
    """
    if text is None:
        return [0.0, DEFAULT_RECALL] if retention.archive else [0.0]
    recalls = list(dict.fromkeys(parse_recall(part) for part in text.split(",")))
    if any(recalls) and not retention.archive:
        raise UsageError(
            f"recall {share_text(max(recalls))} needs an archive to recall from; give it a size, as in --archive 512MiB"
        )
    return recalls
