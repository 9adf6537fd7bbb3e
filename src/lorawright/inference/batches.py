"""Prompt ids → answer ids, batch by batch, the most likely token each.

    pad pad <|im_start|> user Hi <|im_end|> assistant \\n      ─► Hello! <|im_end|>      stopped
    <|im_start|> user Tell me a tale <|im_end|> assistant \\n  ─► Once upon a time        limit

Prompts of similar length are padded on the left to one rectangle; Transformers generates.

Shapes: B prompts of a batch, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """One answer.

    Attributes:
        ids: Without the token that ended it.
        stopped: Whether the turn's end token ended it, within the limit.
    """

    ids: tuple[int, ...]
    stopped: bool


def answer(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    tokens_per_batch: int,
    progress: Callable[[int], None],
) -> list[GeneratedAnswer]:
    """One answer a prompt, in their order.

    Args:
        model: Base or PEFT model, in evaluation mode.
        prompts: Ids up to where the answer begins.
        end_ids: Tokens that end an answer, the turn's end first.
        max_new_tokens: The limit.
        tokens_per_batch: How many tokens, prompts and answers, a batch may hold.
        progress: Told of each number of answers that is done.
    """
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
    )  # the model's own may sample or punish repetition: this measures the model
    answers: dict[int, GeneratedAnswer] = {}
    for numbers in _batches(prompts, tokens_per_batch, max_new_tokens):
        rows = [prompts[number] for number in numbers]
        for number, ids in zip(numbers, _generate(model, rows, end_ids[0]), strict=True):
            answers[number] = _cut(ids, end_ids)
        progress(len(numbers))
    return [answers[number] for number in range(len(prompts))]


def _batches(
    prompts: Sequence[Sequence[int]], tokens_per_batch: int, max_new_tokens: int
) -> Iterator[list[int]]:
    """Indices of prompts of similar length, longest first."""
    batch: list[int] = []
    longest = 0
    for number in sorted(range(len(prompts)), key=lambda n: -len(prompts[n])):
        if batch and (longest + max_new_tokens) * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        longest = longest if batch else len(prompts[number])
        batch.append(number)
    if batch:
        yield batch


@torch.no_grad()
def _generate(model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> list[list[int]]:
    width = max(len(prompt) for prompt in prompts)
    ids_BT = torch.full((len(prompts), width), pad_id)
    mask_BT = torch.zeros_like(ids_BT)
    for number, prompt in enumerate(prompts):
        ids_BT[number, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[number, width - len(prompt) :] = 1
    output_BT = model.generate(
        input_ids=ids_BT.to(model.device), attention_mask=mask_BT.to(model.device)
    )
    new_ids: list[list[int]] = output_BT[:, width:].tolist()
    return new_ids


def _cut(ids: Sequence[int], end_ids: Sequence[int]) -> GeneratedAnswer:
    """The answer up to the first token that ends it; after it is padding."""
    for position, token in enumerate(ids):
        if token in end_ids:
            return GeneratedAnswer(tuple(ids[:position]), token == end_ids[0])
    return GeneratedAnswer(tuple(ids), False)
