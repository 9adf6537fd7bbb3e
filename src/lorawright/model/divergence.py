"""Two models and rows of ids → KL divergence, and how often their most likely tokens agree.

    model A ─► hidden states, head ─► Predictions ─┐
    model B ─► hidden states, head ─► Predictions ─┴► Divergence

One model is in memory at a time: hidden states of a few thousand tokens are megabytes, logits are
gigabytes.

Shapes: B chats of a pass, T tokens, P positions of all chats, C of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from lorawright.errors import ModelError
from lorawright.model import loss
from lorawright.model.causal_lm import backbone, measure_scaling
from lorawright.model.logit_scaling import LogitScaling

CHUNK = 128  # two times 128 x 151,936 logits in float64 are 0.3 GB


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(A ‖ B) in nats over P positions, and the share with the same most likely token."""

    max_kl: float
    mean_kl: float
    top1_agreement: float
    num_positions: int
    num_chats: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model predicts after every token of some chats: the factors of its logits."""

    hidden_PH: torch.Tensor
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    num_chats: int
    scaling: LogitScaling

    def logits(self, chunk: slice) -> torch.Tensor:
        """Logits (C, V); float64, since a KL of 1e-7 is a difference of nearly equal sums."""
        hidden_CH = self.hidden_PH[chunk].to(self.weight_VH)
        logits_CV = nn.functional.linear(hidden_CH, self.weight_VH, self.bias_V)
        if loss.sum_dtype(logits_CV.device) is not torch.float64:
            logits_CV = logits_CV.cpu()  # the device has no float64
        return self.scaling.apply(logits_CV.double())


def predict(model: Any, rows: Sequence[Sequence[int]]) -> Predictions:
    """What a model predicts after each token of some rows.

    Args:
        model: Base or PEFT model, in evaluation mode.
        rows: Ids of a chat each.

    Raises:
        ModelError: Its logits are neither its head's product nor that scaled or capped.
    """
    scaling = measure_scaling(model)
    if scaling is None:
        raise ModelError(
            "does to its logits what this comparison does not know",
            where=str(model.config.name_or_path),
            hint="compare the exported files with another tool",
        )
    hidden = [hidden_states(model, [row])[0].float().cpu() for row in rows]
    output = model.get_output_embeddings()
    bias_V = None if output.bias is None else output.bias.detach().clone()
    return Predictions(
        torch.cat(hidden), output.weight.detach().clone(), bias_V, len(rows), scaling
    )


@torch.no_grad()
def compare(reference: Predictions, other: Predictions) -> Divergence:
    """How far `other` is from `reference` on the same rows; a vocabulary's padding is left out."""
    num_tokens = min(len(reference.weight_VH), len(other.weight_VH))
    total, largest, num_agreeing = 0.0, 0.0, 0
    num_positions = len(reference.hidden_PH)
    for start in range(0, num_positions, CHUNK):
        chunk = slice(start, start + CHUNK)
        p_CV = reference.logits(chunk)[:, :num_tokens].log_softmax(-1)
        q_CV = other.logits(chunk)[:, :num_tokens].log_softmax(-1).to(p_CV.device)
        kl_C = (p_CV.exp() * (p_CV - q_CV)).sum(-1)
        total += float(kl_C.sum())
        largest = max(largest, float(kl_C.max()))
        num_agreeing += int((p_CV.argmax(-1) == q_CV.argmax(-1)).sum())
    return Divergence(
        max_kl=largest,
        mean_kl=total / num_positions,
        top1_agreement=num_agreeing / num_positions,
        num_positions=num_positions,
        num_chats=reference.num_chats,
    )


@torch.no_grad()
def hidden_states(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Last hidden states (B, T, H) of rows padded on the right; a causal mask hides the padding."""
    width = max(len(row) for row in rows)
    ids_BT = torch.zeros((len(rows), width), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids_BT[number, : len(row)] = torch.tensor(row)
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    output = backbone(whole)(ids_BT.to(model.device), use_cache=False)
    hidden_BTH: torch.Tensor = output.last_hidden_state
    return hidden_BTH
