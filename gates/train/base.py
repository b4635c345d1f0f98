"""A frozen Hugging Face causal language model that reads with fading cells, whatever its family.

transformers computes the attention of every family through one table of functions; ours is entered there under a name of
its own and takes the queries and keys as the family made them. What the gates read is what a hook sees go into each
layer's attention. Neither needs a copy of a family's code, and `BaseModel` checks that both work for the model at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ...errors import RetainError
from .attention import fading_attention
from .modules import RetentionGates
from .spans import Spans, spans_of

ATTENTION = "retain_local"
READING = "retain_local_reading"  # argument of the decoder that its layers hand on
# arguments that change what attention computes, and that fading attention has no place for
_REFUSED = {"position_bias": "a position bias"}
# kinds of layers, by their names in transformers' configurations, that are read as the model reads them
_PACKABLE, _RECURRENT = ("full_attention", "sliding_attention"), ("linear_attention", "conv", "mamba")
_PROBE_TOKENS, _MOST_PROBE_TOKENS = 16, 2048  # beyond the window, where there is one, so that the probe feels it
_PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # relative to the logits' standard deviation


class Reading:
    """One pass over a batch: its documents, the gates that fade its cells (None: nothing fades), log beta of each layer."""

    def __init__(self, documents: Tensor, gates: RetentionGates | None) -> None:
        self.documents, self.gates = documents, gates
        self.log_betas: dict[int, Tensor] = {}
        self._spans: dict[int | None, Spans] = {}

    def spans(self, window: int | None) -> Spans:
        """The spans of a layer with this window."""
        if window not in self._spans:
            self._spans[window] = spans_of(self.documents, window)
        return self._spans[window]


class BaseModel:
    """A causal language model whose parameters stay as they are.

    Gates stand before the layers with full attention. Layers with a sliding window are computed as the model computes
    them, and so are recurrent ones.

    Parameters
    ----------
    model : of transformers, on its device, in its type.

    Attributes
    ----------
    gated_layers : the layers with gates, in order, counted among all layers of the model.
    packs_documents : false where layers carry a state along a row; a row then holds one document.

    Raises
    ------
    RetainError : it has no layers with full attention, its attention is of a kind that cannot fade, or it does not give
        with our attention what it gives with its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.requires_grad_(False).eval()
        self.config = model.config.get_text_config()
        self.layers = _attention_layers(model)
        self.n_layer, self.n_embd = self.config.num_hidden_layers, self.config.hidden_size
        kinds = set(getattr(self.config, "layer_types", None) or _PACKABLE[:1])
        self.packs_documents = kinds.issubset(_PACKABLE)
        if unknown := kinds.difference(_PACKABLE, _RECURRENT):
            raise RetainError(
                f"{type(model).__name__} has layers of kind {', '.join(sorted(unknown))}, and gates can be trained"
                f" beside {', '.join((*_PACKABLE, *_RECURRENT))} alone"
            )
        if getattr(self.config, "num_kv_shared_layers", None):
            raise RetainError(f"{type(model).__name__} has layers that share cells, which gates cannot be trained for")
        if not self.layers or (self.packs_documents and len(self.layers) != self.n_layer):
            raise RetainError(
                f"{type(model).__name__} has {self.n_layer} layers and {len(self.layers)} of them have an"
                " attention that gates can be put before; gates can be trained for models like llama, qwen3 and phi3"
            )
        self._seen: dict[int, tuple[int | None, int]] = {}  # window and KV heads of each layer, as the probe met them
        self._take_over_attention()
        self.gated_layers = tuple(il for il, (window, _) in sorted(self._seen.items()) if window is None)
        self.n_head_kv = self._kv_heads()

    def _kv_heads(self) -> int:
        heads = {self._seen[il][1] for il in self.gated_layers}
        if not heads:
            raise RetainError(
                f"every layer of {type(self.model).__name__} has a sliding window: its cache is small already, and"
                " there is nothing to train gates for"
            )
        if len(heads) > 1:
            raise RetainError(
                f"the layers of {type(self.model).__name__} differ in their KV heads, so no gates can be trained for it"
            )
        return heads.pop()

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
        """The last layer's output, and log beta of every layer with gates.

        Parameters
        ----------
        ids : tokens, [B, T].
        positions : of the tokens in their documents, [B, T].
        documents : which document each is of, [B, T]; see `fading_attention`.
        gates : None reads with the full cache.

        Returns
        -------
        hidden : [B, T, n_embd], normed as the output matrix reads it.
        log_betas : for each layer with gates [B, T, H_kv] float32; empty without gates.
        """
        # decoders hand on to the attention of their layers what they do not know themselves
        reading = Reading(documents, gates)
        output = self.model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, **{READING: reading})
        log_betas = [reading.log_betas[il] for il in self.gated_layers] if gates is not None else []
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
        if reading is None or reading.gates is None or module.layer_idx not in self.gated_layers:
            return
        h = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        reading.log_betas[module.layer_idx] = reading.gates(self.gated_layers.index(module.layer_idx), h)

    def _attend(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
        s_aux: Tensor | None = None, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        for name, what in _REFUSED.items():
            if kwargs.get(name) is not None:
                raise RetainError(
                    f"the attention of {type(self.model).__name__} has {what}, which gates cannot be trained for"
                )
        reading = kwargs[READING]
        self._seen.setdefault(module.layer_idx, (sliding_window, k.shape[1]))
        log_beta = reading.log_betas.get(module.layer_idx)
        scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
        return fading_attention(q, k, v, log_beta, reading.spans(sliding_window), scaling, s_aux, softcap), None

    @torch.no_grad()
    def _take_over_attention(self) -> None:
        """Give the model our attention; raise RetainError unless it says the same as with its own."""
        n_tokens = min(_PROBE_TOKENS + (getattr(self.config, "sliding_window", None) or 0), _MOST_PROBE_TOKENS)
        at = torch.arange(n_tokens, device=self.device)[None]
        ids = at * max(1, self.config.vocab_size // n_tokens) % self.config.vocab_size
        expected = self.model(input_ids=ids, use_cache=False).logits.float()
        for layer in self.layers:
            layer.register_forward_pre_hook(self._before_attention, with_kwargs=True)
        AttentionInterface.register(ATTENTION, _dispatch)
        self.model.set_attn_implementation(ATTENTION)
        for layer in self.layers:
            layer.retain_local_base = self._attend
        try:
            hidden, _ = self.hidden(ids, at, torch.zeros_like(ids))
            found = self.logits(hidden)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise RetainError(f"{type(self.model).__name__} cannot be read with fading cells: {error}") from None
        difference = ((found - expected).abs().max() / expected.std()).item()
        if (
            sorted(self._seen) != [layer.layer_idx for layer in self.layers]
            or not difference <= _PROBE_TOLERANCE[self.model.dtype]
        ):
            raise RetainError(
                f"{type(self.model).__name__} does not say with fading attention what it says with its own (logits differ"
                f" by {difference:.2g} of their standard deviation), so gates cannot be trained for it"
            )


def _dispatch(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """The entry in transformers' table, which all models share: to the `BaseModel` that the layer belongs to."""
    return module.retain_local_base(module, *args, **kwargs)


def _attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The self-attention of every layer that has one, in order."""
    return [
        module for name, module in model.named_modules()
        if name.endswith("self_attn") and isinstance(getattr(module, "layer_idx", None), int)
    ]  # fmt: skip
