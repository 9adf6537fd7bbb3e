"""Sizes of a model → memory and operations of a training step, before anything is loaded.

    weights + adapter (weights, gradients, two Adam moments, float32) + activations of one pass
    + the chunk of logits the loss is made from

The coefficients are checked against measured peaks in `docs/log.md`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LOGIT_CHUNK_TOKENS = 256  # the head's chunk, see head.py

# Activations kept per token and layer without recomputation, in units of (hidden + ffn) values:
# inputs of the seven products and of their adapters, normalized copies, attention's output.
KEPT_HIDDEN = 14
KEPT_FFN = 5


RUNTIME_BYTES = 500_000_000  # PyTorch and the libraries, before a model is loaded

# A step's time over that of its matrix products alone: the adapter's small products, dropout,
# norms, attention. Measured, see docs/log.md.
TIME_OVER_PRODUCTS = 1.9


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that decide its memory."""

    hidden: int
    ffn: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def num_linear(self) -> int:
        """Parameters of the linear layers inside the blocks."""
        attention = self.hidden * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def num_parameters(self) -> int:
        return self.num_linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def num_adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        per_layer = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.ffn)
        return self.num_layers * rank * per_layer


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, by what holds them, for a pass of `tokens_per_pass` tokens."""

    weights: int
    adapter: int
    activations: int
    logits: int
    runtime: int
    tokens_per_pass: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.logits + self.runtime


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a run will take: all steps, one evaluation, and how many of those there are.

    The first evaluation is before the first step, the last behind the last one.
    """

    steps: float
    evaluation: float
    num_evaluations: int

    @property
    def evaluations(self) -> float:
        return self.evaluation * self.num_evaluations

    @property
    def total(self) -> float:
        return self.steps + self.evaluations


def read_shape(folder: Path) -> ModelShape | None:
    """Sizes from a model folder's config.json; None for a model that names them otherwise."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return ModelShape(
            hidden=hidden,
            ffn=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError):  # one number a layer, or other names
        return None


def product_flops(
    shape: ModelShape, *, num_tokens: int, num_trained_tokens: int, checkpointing: bool
) -> int:
    """Floating-point operations of a run's matrix products.

    Forward and the gradient of the inputs, 2 + 2 per weight and token, one more forward where
    activations are computed again; the frozen base needs no gradient of its weights. The head only
    sees trained tokens.
    """
    per_weight = 6 if checkpointing else 4
    head = 4 * shape.vocabulary * shape.hidden
    return per_weight * shape.num_linear * num_tokens + head * num_trained_tokens


def forward_flops(shape: ModelShape, *, num_tokens: int, num_trained_tokens: int) -> int:
    """Floating-point operations of an evaluation's matrix products."""
    head = 2 * shape.vocabulary * shape.hidden
    return 2 * shape.num_linear * num_tokens + head * num_trained_tokens


def memory(
    shape: ModelShape,
    *,
    bytes_per_weight: float,
    rank: int,
    tokens_per_pass: int,
    checkpointing: bool,
    bytes_per_activation: int = 2,
    whole_logits: bool = False,
) -> Memory:
    """Peak memory of one process.

    Args:
        shape: Of the base model.
        bytes_per_weight: 4 float32, 2 bfloat16, 1 int8, 0.55 nf4 with double quantization.
        rank: Of the adapter.
        tokens_per_pass: Tokens in the longest pass.
        checkpointing: Whether only each block's input is kept.
        bytes_per_activation: 4 in float32, else 2.
        whole_logits: Whether all of a pass are kept: the model's own, scaled or capped.
    """
    embedding = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    dense = 2 if bytes_per_weight < 2 else bytes_per_weight
    weights = int(shape.num_linear * bytes_per_weight + embedding * dense)
    block = tokens_per_pass * (KEPT_HIDDEN * shape.hidden + KEPT_FFN * shape.ffn)
    kept = (
        shape.num_layers * tokens_per_pass * shape.hidden + block
        if checkpointing
        else (shape.num_layers * block)
    )
    chunk = min(tokens_per_pass, LOGIT_CHUNK_TOKENS)
    logits = chunk * shape.vocabulary * (4 + bytes_per_activation)
    if whole_logits:  # the model's, scaled, in float32, their logarithms, and gradients of these
        logits = tokens_per_pass * shape.vocabulary * (12 + 2 * bytes_per_activation)
    return Memory(
        weights=weights,
        adapter=shape.num_adapter(rank) * 16,
        activations=kept * bytes_per_activation,
        logits=logits,
        runtime=RUNTIME_BYTES,
        tokens_per_pass=tokens_per_pass,
    )
