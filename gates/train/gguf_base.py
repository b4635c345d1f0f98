"""The base model of a GGUF file: transformers reads its weights, and what it leaves out is added here.

transformers dequantises the file, undoes what its converter did (the rotary permutation of llama's q and k among it), and
makes a configuration. Left out of that are head sizes that do not follow from the width, frequency factors of RoPE (Llama
3.1), and scales of granite. Whether all of a file was understood is not taken on trust: `check_logits` compares what the
model says with what llama.cpp says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)

from ...errors import RetainError
from ...llama import Llama
from ...models.gguf_header import Header, read_header
from .base import BaseModel

_PROBE_TOKENS = 64
# largest difference of logits, as a root mean square in standard deviations: of float32 sums in another order; of
# activations that llama.cpp rounds to 8 bits beside quantised weights, or of a model in bf16
_EXACT, _ROUNDED = 1e-2, 0.2
_UNQUANTISED = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_FACTORS = "rope_freqs.weight"

# what of a configuration a file states under another name; {arch} is put before
_STATED = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_feed_forward_length": "moe_intermediate_size",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def is_gguf(source: str) -> bool:
    """Whether a base model is named by a GGUF file."""
    return source.lower().endswith(".gguf")


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a GGUF file, dequantised.

    Raises
    ------
    RetainError : transformers does not know the architecture, or the file lacks or has tensors that the model has not.
    """
    header = read_header(path)
    arch = _value(header, "general.architecture")
    try:
        with _without_bars():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            _complete(config, header, str(arch))
            model, report = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, config=config, dtype=dtype, output_loading_info=True
            )
    except Exception as error:  # whatever transformers makes of an architecture that it half knows
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RetainError(f"{path}: transformers cannot read this model of architecture {arch}: {reason}") from None
    missing = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if missing:
        raise RetainError(
            f"{path}: {len(missing)} tensors of the model are not in the file as it needs them: {missing[0]}"
        )
    _apply_frequency_factors(model, path, header)
    return model


@contextmanager
def _without_bars() -> Iterator[None]:
    """The GGUF reader of transformers shows a bar that its own switch for bars does not turn off."""
    shown = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = partial(shown, disable=True)
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = shown


def _complete(config: PreTrainedConfig, header: Header, arch: str) -> None:
    """Put into the configuration what the file states and transformers leaves out."""
    for key, name in _STATED.items():
        value = _value(header, f"{arch}.{key}")
        if isinstance(value, (int, float)) and hasattr(config, name):
            setattr(config, name, value)
    config.pad_token_id = _value(header, "tokenizer.ggml.padding_token_id")  # or else the one of some other checkpoint


def _apply_frequency_factors(model: PreTrainedModel, path: Path, header: Header) -> None:
    """Divide the frequencies of RoPE by the factors of the file, if it has some (Llama 3.1 and later)."""
    if _FACTORS not in header.tensors:
        return
    factors = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == _FACTORS)
    rotary = getattr(model.get_decoder(), "rotary_emb", None)
    if rotary is None or rotary.inv_freq.numel() != factors.n_elements:
        raise RetainError(f"{path}: its rotary frequencies have factors, which {type(model).__name__} has no place for")
    with torch.no_grad():
        rotary.inv_freq.div_(torch.from_numpy(np.array(factors.data, np.float32)).to(rotary.inv_freq.device))


def _value(header: Header, key: str) -> str | int | float | list | None:
    field = header.fields.get(key)
    value = None if field is None else field.value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def check_logits(base: BaseModel, path: Path) -> None:
    """Raise RetainError unless the base model says what llama.cpp says with the same file, about arbitrary tokens."""
    n_vocab = base.config.vocab_size
    tokens = [(7 + 7919 * at) % n_vocab for at in range(_PROBE_TOKENS)]
    llm = Llama(
        path, logits_all=True, n_ctx=_PROBE_TOKENS, type_k="f32", type_v="f32", policy="none", verbose=False
    )  # fmt: skip
    try:
        llm.eval(tokens)
        expected = torch.from_numpy(np.array(llm.scores[: len(tokens)]))
    finally:
        llm.close()
    ids = torch.tensor(tokens, device=base.device)[None]
    with torch.no_grad():
        hidden, _ = base.hidden(ids, torch.arange(len(tokens), device=base.device)[None], torch.zeros_like(ids))
        found = base.logits(hidden)[0].cpu()[:, : expected.shape[1]]
    difference = ((found - expected).square().mean().sqrt() / expected.std()).item()
    is_exact = base.model.dtype == torch.float32 and all(
        tensor.type in _UNQUANTISED for tensor in read_header(path).tensors.values()
    )
    if not difference <= (_EXACT if is_exact else _ROUNDED):
        raise RetainError(
            f"{path}: transformers reads this file otherwise than llama.cpp (logits differ by {difference:.2g} of their"
            " standard deviation), so gates trained on it would not fit; train on the model in the layout of transformers"
        )
