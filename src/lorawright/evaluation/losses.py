"""A model and chats → loss and accuracy per token: of what is trained, by role, by length.

A forward pass over chats of similar length, padded on the right under a causal mask:

    | a a a a a a a |        the head's product and the cross-entropy are computed in chunks,
    | b b b b b - - |        at the positions before the tokens that are counted

Shapes: B chats of a pass, T tokens of the longest, P predicted positions, H hidden.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from lorawright.evaluation.chats import EvalChat
from lorawright.model.causal_lm import measure_scaling, token_losses_from_logits
from lorawright.model.divergence import hidden_states
from lorawright.model.logit_scaling import PLAIN
from lorawright.model.loss import token_losses

LENGTHS = (128, 512, 2048, 8192)  # highest numbers of tokens of the length classes
LENGTH_CLASSES = [
    *(f"{low + 1}-{high}" for low, high in pairwise((0, *LENGTHS))), f"{LENGTHS[-1] + 1}-",
]  # fmt: skip


@dataclass
class TokenSums:
    """Sums over tokens."""

    loss: float = 0.0
    num_hits: int = 0
    num_tokens: int = 0

    def add(self, losses: torch.Tensor, hits: torch.Tensor) -> None:
        self.loss += float(losses.sum())
        self.num_hits += int(hits.sum())
        self.num_tokens += len(losses)

    def figures(self) -> dict[str, Any]:
        """Means over tokens, and the perplexity per token."""
        loss = self.loss / self.num_tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "token_accuracy": self.num_hits / self.num_tokens,
            "num_tokens": self.num_tokens,
        }


@dataclass
class Losses:
    """Sums over an evaluation set; `by_length` and `by_chat` count trained tokens.

    `by_chat` is by the chats' numbers.
    """

    trained: TokenSums = field(default_factory=TokenSums)
    by_role: dict[str, TokenSums] = field(default_factory=lambda: defaultdict(TokenSums))
    by_length: dict[str, TokenSums] = field(default_factory=lambda: defaultdict(TokenSums))
    by_chat: dict[int, TokenSums] = field(default_factory=lambda: defaultdict(TokenSums))


def measure(
    model: Any, chats: Sequence[EvalChat], tokens_per_pass: int, progress: Callable[[int], None]
) -> Losses:
    """Losses of a causal model on chats.

    Args:
        model: Base or PEFT model, in evaluation mode.
        chats: The evaluation set.
        tokens_per_pass: How many tokens one forward pass may hold.
        progress: Told of each number of chats that is done.
    """
    found, score = Losses(), _scorer(model)
    longest_first = sorted(chats, key=lambda chat: -len(chat.encoded.ids))
    for batch in _batches(longest_first, tokens_per_pass):
        for chat, (losses_P, hits_P) in zip(batch, score(batch), strict=True):
            _add(found, chat, losses_P, hits_P)
        progress(len(batch))
    return found


def length_class(num_tokens: int) -> str:
    """300 → `129-512`."""
    return LENGTH_CLASSES[bisect_left(LENGTHS, num_tokens)]


def _batches(chats: Sequence[EvalChat], tokens_per_pass: int) -> Iterator[list[EvalChat]]:
    """Longest chats first, so many that the padded batch stays within the pass."""
    batch: list[EvalChat] = []
    for chat in chats:
        longest = len((batch or [chat])[0].encoded.ids)
        if batch and longest * (len(batch) + 1) > tokens_per_pass:
            yield batch
            batch = []
        batch.append(chat)
    if batch:
        yield batch


TokenScores = list[tuple[torch.Tensor, torch.Tensor]]


def _scorer(model: Any) -> Callable[[Sequence[EvalChat]], TokenScores]:
    """For each chat of a batch, losses and hits at its positions.

    From hidden states and the head's product where that is what the model's logits are, else from
    the model's own, chat by chat.
    """
    output, scaling = model.get_output_embeddings(), measure_scaling(model)

    @torch.no_grad()
    def fused(batch: Sequence[EvalChat]) -> TokenScores:
        hidden_BTH = hidden_states(model, [chat.encoded.ids for chat in batch])
        return [
            token_losses(
                hidden_TH[_tensor(_positions(chat), model)],
                output.weight,
                output.bias,
                _tensor(_targets(chat), model),
                scaling or PLAIN,
            )
            for chat, hidden_TH in zip(batch, hidden_BTH, strict=True)
        ]

    def from_logits(batch: Sequence[EvalChat]) -> TokenScores:
        return [
            token_losses_from_logits(
                model,
                _tensor(chat.encoded.ids, model),
                _tensor(_positions(chat), model),
                _tensor(_targets(chat), model),
            )
            for chat in batch
        ]

    return from_logits if scaling is None else fused


def _tensor(values: Sequence[int], model: Any) -> torch.Tensor:
    return torch.tensor(values, device=model.device)


def _targets(chat: EvalChat) -> list[int]:
    return [chat.encoded.ids[position + 1] for position in _positions(chat)]


def _add(found: Losses, chat: EvalChat, losses_P: torch.Tensor, hits_P: torch.Tensor) -> None:
    index = {position: number for number, position in enumerate(_positions(chat))}

    def at(start: int, end: int) -> slice:
        """Where the losses of tokens start…end stand."""
        return slice(index[start - 1], index[end - 2] + 1)

    whole = found.by_chat[chat.number]
    for start, end in chat.encoded.spans:
        where = at(start, end)
        whole.add(losses_P[where], hits_P[where])
        found.trained.add(losses_P[where], hits_P[where])
        found.by_length[length_class(len(chat.encoded.ids))].add(losses_P[where], hits_P[where])
    for role, (start, end) in chat.turns:
        if end > start:
            where = at(start, end)
            found.by_role[str(role)].add(losses_P[where], hits_P[where])


def _positions(chat: EvalChat) -> list[int]:
    """Positions before the tokens that are counted somewhere, in order."""
    spans = [*chat.encoded.spans, *(span for _, span in chat.turns)]
    return sorted({token - 1 for start, end in spans for token in range(start, end)})
