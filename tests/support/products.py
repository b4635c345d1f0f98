"""Every product of weights and activations in a compute graph, taken through llama.cpp's evaluation callback."""

from __future__ import annotations

from dataclasses import dataclass

import llama_cpp
import numpy as np

from support import ggml


@dataclass
class Product:
    """One product.

    Attributes
    ----------
    weight : name of the tensor of weights.
    buffer : name of the buffer that they lie in.
    inputs : [n, n_in] f32, one row for each row of outputs.
    outputs : [n, n_out] f32.
    expert : [n] int32, the expert whose weights made a row; zeros where there are no experts.
    """

    weight: str
    buffer: str
    inputs: np.ndarray
    outputs: np.ndarray
    expert: np.ndarray


class ProductCapture:
    """Keeps every product of a graph.

    Attributes
    ----------
    products : in the order they were computed.
    callback : for `llama_context_params.cb_eval`.
    """

    def __init__(self) -> None:
        self.products: list[Product] = []
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._see)

    def _see(self, address: int, ask: bool, _: int) -> bool:
        tensor = ggml.Tensor.from_address(address)
        op = ggml.op_name(tensor)
        is_product = op in ("MUL_MAT", "MUL_MAT_ID") and tensor.src[0].contents.name.endswith(b".weight")
        if ask or not is_product:
            return is_product
        weights, rows = tensor.src[0].contents, tensor.src[1].contents
        outputs, inputs = ggml.read(tensor, np.float32)[0], ggml.read(rows, np.float32)[0]
        expert = np.zeros(outputs.shape[:2], np.int32)
        if op == "MUL_MAT_ID":  # [n_tokens, n_used, ...]; all experts of a token may read one row
            expert = ggml.read(tensor.src[2].contents, np.int32)[0, 0]
            inputs = np.broadcast_to(inputs, (*outputs.shape[:2], inputs.shape[-1]))
        self.products.append(
            Product(
                weights.name.decode(),
                ggml.buffer_name(weights),
                inputs.reshape(-1, inputs.shape[-1]),
                outputs.reshape(-1, outputs.shape[-1]),
                expert.ravel(),
            )
        )
        return True
