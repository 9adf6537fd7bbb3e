"""What a model does to its logits behind the head: nothing, a scale, a cap, or both.

    y = s·x                 Granite, Cohere     dy/dx = s
    y = c·tanh(s·x / c)     Gemma 2             dy/dx = s·(1 - (y/c)²)      soft-capping

Shapes: C positions of a chunk, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """A scale, and a cap that logits stay below."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def is_plain(self) -> bool:
        return self.scale == 1.0 and self.cap is None

    def apply(self, logits_CV: torch.Tensor) -> torch.Tensor:
        """The model's logits, from the head's product."""
        if self.is_plain:
            return logits_CV
        scaled_CV = logits_CV * self.scale
        return scaled_CV if self.cap is None else self.cap * torch.tanh(scaled_CV / self.cap)

    def apply_(self, logits_CV: torch.Tensor, slope_CV: torch.Tensor | None) -> None:
        """The same in place; where there is a cap, `slope_CV` takes dy/dx."""
        if self.cap is None:
            logits_CV.mul_(self.scale)
            return
        logits_CV.mul_(self.scale / self.cap).tanh_()
        if slope_CV is not None:
            torch.mul(logits_CV, logits_CV, out=slope_CV).neg_().add_(1.0).mul_(self.scale)
        logits_CV.mul_(self.cap)


PLAIN = LogitScaling()
