"""Which published gates are for a model, by what its GGUF says about itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...models.model_file import ModelFile
from .registry import PublishedGates

# what names of files have behind the name of the model
_QUANTISATION = re.compile(r"[-._ ](?:(?:UD-)?(?:I?Q\d\w*|BF16|F16|F32|FP16|FP8|MXFP4\w*)|GGUF|imat)$", re.IGNORECASE)


def has_sizes(gates: PublishedGates, model: ModelFile) -> bool:
    """Whether a model has the architecture and the sizes that gates were made for."""
    return (
        gates.architecture == model.architecture
        and gates.block_count == len(model.n_head_kv)
        and gates.embedding_length == model.n_embd
        and set(model.n_head_kv) <= {gates.head_count_kv}
    )


def is_for(gates: PublishedGates, model: ModelFile) -> bool:
    """Whether gates are for this very model: it has the sizes, and its metadata or its file has the name.

    Models of the same sizes that were trained further have other names, and the gates may not fit them.
    """
    owner, _, name = gates.base.partition("/")
    wanted = {plain(text) for base in (name, *gates.names) for text in (base, f"{owner} {base}")}
    return has_sizes(gates, model) and not wanted.isdisjoint(plain(text) for text in (model.name, model.stem))


def fitting(all_gates: Iterable[PublishedGates], model: ModelFile) -> tuple[list[PublishedGates], list[PublishedGates]]:
    """Those for this model, and those for others of the same architecture and sizes."""
    sized = [gates for gates in all_gates if has_sizes(gates, model)]
    return [gates for gates in sized if is_for(gates, model)], [gates for gates in sized if not is_for(gates, model)]


def plain(name: str) -> str:
    """A model's name in lower-case letters and digits, without the quantisation at its end."""
    while (shorter := _QUANTISATION.sub("", name)) != name:
        name = shorter
    return re.sub("[^a-z0-9]", "", name.lower())
