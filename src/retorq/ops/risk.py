"""Risk: which parts of the return's distribution to act on, as distortions of quantile fractions.

A distortion maps fractions in [0, 1] to fractions. The mean of the quantile function at distorted uniform fractions is
a distorted expectation, and acting greedily on it is acting with an attitude to risk (Dabney et al. 2018, "Implicit
Quantile Networks", section 3). Learning does not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from retorq.types import UserError

Kind = Literal["cvar", "wang", "power"]


@dataclass(frozen=True)
class Risk:
    """A distortion of fractions, by its kind and level (Dabney et al. 2018, IQN, section 3).

    - ``"cvar"``: ``level * tau``, the mean of the worst ``level`` of all returns; in (0, 1], 1 is neutral.
    - ``"wang"``: ``Phi(Phi^-1(tau) + level)`` with the standard normal's ``Phi``; averse below 0, seeking above.
    - ``"power"``: ``tau^(1 / (1 + |level|))`` for ``level >= 0`` (seeking), else
      ``1 - (1 - tau)^(1 / (1 + |level|))`` (averse).

    Raises:
        UserError: ``kind`` is none of these, or ``level`` is outside the kind's range.
    """

    kind: Kind
    level: float

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist and a level out of range."""
        if self.kind not in get_args(Kind):
            raise UserError(f"risk is {self.kind!r}, which does not exist; give one of {', '.join(get_args(Kind))}.")
        if not math.isfinite(self.level):
            raise UserError(f"risk_level is {self.level}; give a finite number.")
        if self.kind == "cvar" and not 0 < self.level <= 1:
            raise UserError(f"risk_level is {self.level}, but risk is 'cvar'; give a number above 0 and at most 1.")

    def __call__(self, fractions: Tensor) -> Tensor:
        """Distorted fractions: any shape, float32 or float64, in [0, 1], and so is the result; never decreasing."""
        if self.kind == "cvar":
            return self.level * fractions
        if self.kind == "wang":
            return torch.special.ndtr(torch.special.ndtri(fractions) + self.level)
        exponent = 1 / (1 + abs(self.level))
        if self.level >= 0:
            return fractions**exponent
        return 1 - (1 - fractions) ** exponent
