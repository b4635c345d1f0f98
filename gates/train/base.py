"""A frozen Hugging Face causal language model that reads with fading cells, whatever its family.

transformers computes the attention of every family through one table of functions; ours is entered there under a name of
its own and takes the queries and keys as the family made them. What the gates read is what a hook sees go into each
layer's attention. Neither needs a copy of a family's code, and `BaseModel` checks that both work for the model at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ...errors import RetainError
from .attention import fading_attention
from .modules import RetentionGates

ATTENTION = "retain_local"
READING = "retain_local_reading"  # argument of the decoder that its layers hand on
# arguments that change what attention computes, none of which the memory of the native part has
_REFUSED = {"sliding_window": "a sliding window", "softcap": "a cap on its logits", "s_aux": "sink logits",
            "position_bias": "a position bias"}  # fmt: skip
_PROBE_TOKENS = 16
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # relative to the logits' standard deviation


@dataclass
class Reading:
    """One pass over a batch: its documents, the gates that fade its cells (None: nothing fades), and log beta of each layer."""

    documents: Tensor
    gates: RetentionGates | None
    log_betas: dict[int, Tensor]


class BaseModel:
    """A causal language model whose parameters stay as they are.

    Parameters
    ----------
    model : of transformers, on its device, in its type.

    Raises
    ------
    RetainError : its layers cannot be found, its attention is of a kind that cannot fade, or it does not give with our
        attention what it gives with its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False).eval()
        self.config = model.config.get_text_config()
        self.layers = _attention_layers(model)
        self.n_layer, self.n_embd = len(self.layers), self.config.hidden_size
        self.n_head_kv = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        if self.n_layer != self.config.num_hidden_layers:
            raise RetainError(
                f"{type(model).__name__} has {self.config.num_hidden_layers} layers and {self.n_layer} of them have an"
                " attention that gates can be put before; gates can be trained for models like llama, qwen3 and phi3"
            )
        self._take_over_attention()

    @property
    def device(self) -> torch.device:
        return self.model.device

    def use_gradient_checkpointing(self) -> None:
        """Keep the activations of one layer at a time and compute the others anew in backward."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        # the older name is that of the last transformers for Python 3.10
        enable = (
            getattr(self.model, "activation_checkpointing_enable", None) or self.model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        self.model.train()  # transformers checkpoints in this mode alone

    def hidden(
        self, ids: Tensor, positions: Tensor, documents: Tensor, gates: RetentionGates | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The last layer's output, and log beta of every layer.

        Parameters
        ----------
        ids : tokens, [B, T].
        positions : of the tokens in their documents, [B, T].
        documents : which document each is of, [B, T]; see `fading_attention`.
        gates : None reads with the full cache.

        Returns
        -------
        hidden : [B, T, n_embd], normed as the output matrix reads it.
        log_betas : for each layer [B, T, H_kv] float32; empty without gates.
        """
        # decoders hand on to the attention of their layers what they do not know themselves
        reading = Reading(documents, gates, {})
        output = self.model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, **{READING: reading})
        log_betas = [reading.log_betas[il] for il in range(self.n_layer)] if gates is not None else []
        return output.last_hidden_state, log_betas

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., n_vocab] of hidden states [..., n_embd], with the scaling that some families have."""
        logits = self.model.get_output_embeddings()(hidden).float()
        if (scale := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def _before_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook of every attention: give the gates what its q, k and v projections are about to read."""
        reading = kwargs.get(READING)
        if reading is not None and reading.gates is not None:
            h = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            reading.log_betas[module.layer_idx] = reading.gates(module.layer_idx, h)

    def _attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        for name, what in _REFUSED.items():
            if kwargs.get(name) is not None:
                raise RetainError(
                    f"the attention of {type(self.model).__name__} has {what}, which gates cannot be trained for"
                )
        reading = kwargs[READING]
        log_beta = reading.log_betas[module.layer_idx] if reading.gates is not None else None
        scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
        return fading_attention(q, k, v, log_beta, reading.documents, scaling), None

    @torch.no_grad()
    def _take_over_attention(self) -> None:
        """Give the model our attention; raise RetainError unless it says the same as with its own."""
        step = max(1, self.config.vocab_size // _PROBE_TOKENS)
        ids = torch.arange(_PROBE_TOKENS, device=self.device)[None] * step % self.config.vocab_size
        expected = self.model(input_ids=ids, use_cache=False).logits.float()
        for layer in self.layers:
            layer.register_forward_pre_hook(self._before_attention, with_kwargs=True)
        AttentionInterface.register(ATTENTION, _dispatch)
        self.model.set_attn_implementation(ATTENTION)
        for layer in self.layers:
            layer.retain_local_base = self._attend
        seen: list[int] = []
        handles = [
            layer.register_forward_hook(lambda module, *_: seen.append(module.layer_idx)) for layer in self.layers
        ]
        positions = torch.arange(_PROBE_TOKENS, device=self.device)[None]
        try:
            hidden, _ = self.hidden(ids, positions, torch.zeros_like(ids))
            found = self.logits(hidden)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise RetainError(f"{type(self.model).__name__} cannot be read with fading cells: {error}") from None
        finally:
            for handle in handles:
                handle.remove()
        difference = ((found - expected).abs().max() / expected.std()).item()
        if sorted(seen) != list(range(self.n_layer)) or not difference <= _PROBE_TOLERANCE[self.model.dtype]:
            raise RetainError(
                f"{type(self.model).__name__} does not say with fading attention what it says with its own (logits differ"
                f" by {difference:.2g} of their standard deviation), so gates cannot be trained for it"
            )


def _dispatch(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """The entry in transformers' table, which all models share: to the `BaseModel` that the layer belongs to."""
    return module.retain_local_base(module, *args, **kwargs)


def _attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The self-attention of every layer, in order."""
    return [
        module for name, module in model.named_modules()
        if name.endswith("self_attn") and isinstance(getattr(module, "layer_idx", None), int)
    ]  # fmt: skip
