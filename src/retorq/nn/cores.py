"""Cores: from features ``[T, B, F]`` to features with memory, resetting wherever an episode begins.

A recurrent state is a dict of tensors, batch first; ``initial_state`` gives the one at the start of an episode.
"""

from __future__ import annotations

from math import pi
from typing import Literal

import torch
from torch import Tensor, nn

from retorq.nn.products import Linear, linear
from retorq.nn.recurrence import Recurrence
from retorq.types import Tree

Merge = Literal["outer", "inner", "separate"]


class Features:
    """What a core hands to a head: ``x [T, B, F]``, or ``x [T, B, N, F]`` with the ``fractions [T, B, N]`` it used."""

    def __init__(self, x: Tensor, fractions: Tensor | None = None) -> None:
        self.x = x
        self.fractions = fractions

    def rows(self, start: int, stop: int | None) -> Features:
        """Rows ``start..stop-1``."""
        return Features(self.x[start:stop], None if self.fractions is None else self.fractions[start:stop])

    def detach(self) -> Features:
        """The same values, cut from the graph."""
        return Features(self.x.detach(), self.fractions)

    def join(self, other: Features) -> Features:
        """These rows, then the other's."""
        x = torch.cat([self.x, other.x])
        if self.fractions is None or other.fractions is None:
            return Features(x)
        return Features(x, torch.cat([self.fractions, other.fractions]))

    def take(self, index: Tensor) -> Features:
        """Row ``index[t, b]`` of column ``b``, for ``index [T', B]``."""
        columns = torch.arange(index.shape[1], device=index.device).expand_as(index)
        return Features(self.x[index, columns], None if self.fractions is None else self.fractions[index, columns])


class Stateless(nn.Module):
    """No memory: features pass through."""

    recurrent = False

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.size = inputs

    def initial_state(self, columns: int, device: torch.device | str = "cpu") -> Tree:
        """An empty state."""
        return {}

    def forward(
        self, x: Tensor, first: Tensor, state: Tree, generator: torch.Generator | None = None
    ) -> tuple[Features, Tree]:
        """``[T, B, F]`` unchanged."""
        return Features(x), {}


class LSTM(nn.Module):
    """Long short-term memory that clears itself on rows where ``first`` is set.

    Weights are uniform within 1/sqrt(fan-in); the bias is the sum of two uniform draws within 1/sqrt(hidden), as
    PyTorch's two LSTM biases are (no forget-gate offset).
    """

    recurrent = True

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.size = hidden
        self.weight_input = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        bound = hidden**-0.5
        self.weight_hidden = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 4 * hidden).uniform_(-bound, bound).sum(0))

    def initial_state(self, columns: int, device: torch.device | str = "cpu") -> Tree:
        """Zeros: ``h`` and ``c``, ``[B, hidden]`` float32."""
        return {name: torch.zeros(columns, self.size, device=device) for name in ("h", "c")}

    def gates(self, x: Tensor) -> Tensor:
        """The input products of all rows at once, ``[..., 4 hidden]``."""
        return linear(x, self.weight_input, self.bias)

    def run(self, gates: Tensor, keep: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loop over rows; see :class:`Recurrence`."""
        outputs: tuple[Tensor, Tensor, Tensor] = Recurrence.apply(gates, self.weight_hidden, h, c, keep)
        return outputs

    def forward(
        self, x: Tensor, first: Tensor, state: Tree, generator: torch.Generator | None = None
    ) -> tuple[Features, Tree]:
        """``x [T, B, F]``, ``first [T, B]``, state before row 0; returns features ``[T, B, hidden]`` and the state."""
        keep = (~first).to(torch.float32).unsqueeze(-1)
        outputs, h, c = self.run(self.gates(x), keep, state["h"], state["c"])
        return Features(outputs), {"h": h, "c": c}


class Cosines(nn.Module):
    """Embedding of fractions: ``ReLU(linear(cos(pi i tau)))`` for i = 1..64 (IQN, equation 4).

    The paper counts from 0, which duplicates the bias; public implementations count from 1.
    """

    multiples: Tensor

    def __init__(self, features: int, cosines: int = 64) -> None:
        super().__init__()
        self.linear = Linear(cosines, features)
        self.register_buffer("multiples", pi * torch.arange(1, cosines + 1, dtype=torch.float32), persistent=False)

    def forward(self, fractions: Tensor) -> Tensor:
        """``[...]`` in (0, 1) to ``[..., features]``."""
        return nn.functional.relu(self.linear(torch.cos(fractions.unsqueeze(-1) * self.multiples)))


class QuantileLSTM(nn.Module):
    """The quantile layer *before* the memory: every fraction has its own input to the LSTM.

    How the samples' memories meet (``merge``):

    - ``"inner"``: one memory per column; it is shared by the samples at every row and their mean goes on.
    - ``"outer"``: the memory is repeated over the samples when an unroll begins and their mean taken when it ends: for
      the online network of the loss that is after the learned rows, for an actor after every row.
    - ``"separate"``: every sample keeps its own memory, and its fraction stays the same from the first row of an
      episode to its last (both are part of the state).
    """

    recurrent = True

    def __init__(self, inputs: int, hidden: int, samples: int, merge: Merge, cosines: int = 64) -> None:
        super().__init__()
        self.size, self.samples, self.merge = hidden, samples, merge
        self.embedding = Cosines(inputs, cosines)
        self.lstm = LSTM(inputs, hidden)

    def initial_state(self, columns: int, device: torch.device | str = "cpu") -> Tree:
        """Zeros; ``separate`` holds ``[B, N, hidden]`` and the fractions ``[B, N]``, the others ``[B, hidden]``."""
        if self.merge != "separate":
            return self.lstm.initial_state(columns, device)
        state = {name: torch.zeros(columns, self.samples, self.size, device=device) for name in ("h", "c")}
        return state | {"fractions": torch.full((columns, self.samples), 0.5, device=device)}

    def _fractions(self, first: Tensor, state: Tree, generator: torch.Generator | None) -> Tensor:
        """Fresh ones for every row, or, for ``separate``, fresh ones only where an episode begins. ``[T, B, N]``."""
        fresh = torch.rand(*first.shape, self.samples, device=first.device, generator=generator)
        if self.merge != "separate":
            return fresh
        rows, current = [], state["fractions"]
        for t in range(first.shape[0]):
            current = torch.where(first[t].unsqueeze(-1), fresh[t], current)
            rows.append(current)
        return torch.stack(rows)

    def _inner(self, gates: Tensor, keep: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """Row by row: all samples start from the shared memory, and their mean is the next shared memory."""
        h, c, outputs = state["h"], state["c"], []
        for t in range(gates.shape[0]):
            shared, cell = h * keep[t], (c * keep[t]).unsqueeze(1)
            recurrent = nn.functional.linear(shared, self.lstm.weight_hidden)
            i, f, o, g = (gates[t] + recurrent.unsqueeze(1)).float().split(self.size, dim=-1)
            cells = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hiddens = o.sigmoid() * cells.tanh()
            outputs.append(hiddens)
            h, c = hiddens.mean(1), cells.mean(1)
        return torch.stack(outputs), {"h": h, "c": c}

    def forward(
        self, x: Tensor, first: Tensor, state: Tree, generator: torch.Generator | None = None
    ) -> tuple[Features, Tree]:
        """``x [T, B, F]`` to features ``[T, B, N, hidden]`` with their fractions, and the state."""
        fractions = self._fractions(first, state, generator)
        gates = self.lstm.gates(x.unsqueeze(2) * self.embedding(fractions))
        keep = (~first).to(torch.float32).unsqueeze(-1)
        if self.merge == "inner":
            outputs, state = self._inner(gates, keep, state)
            return Features(outputs, fractions), state
        h, c = state["h"], state["c"]
        if self.merge == "outer":
            h, c = (v.unsqueeze(1).expand(-1, self.samples, -1) for v in (h, c))
        columns, samples = first.shape[1], self.samples
        wide = keep.unsqueeze(2).expand(-1, -1, samples, -1).flatten(1, 2)
        outputs, h, c = self.lstm.run(gates.flatten(1, 2), wide, h.flatten(0, 1), c.flatten(0, 1))
        h, c = (v.unflatten(0, (columns, samples)) for v in (h, c))
        state = (
            {"h": h.mean(1), "c": c.mean(1)} if self.merge == "outer" else {"h": h, "c": c, "fractions": fractions[-1]}
        )
        return Features(outputs.unflatten(1, (columns, samples)), fractions), state
