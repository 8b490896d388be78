"""The return distribution that a network has learned, as values with probabilities, whatever kind of head it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retorq.nn.network import Network
from retorq.ops.rescale import unrescale
from retorq.types import Inputs, Tree
from retorq.values import ActionValues, Categorical, Quantiles

FRACTIONS = 256
"""How many quantile fractions describe a distribution whose head takes any number of them."""


@dataclass(frozen=True)
class ReturnDistribution:
    """``values [A, K]`` with their ``probabilities [A, K]``, which sum to 1 for every action; float64.

    The units are those of discounted, perhaps clipped rewards; of rescaled values see :meth:`unrescaled`. Values of
    categorical agents rise and are always the same, evenly spaced (``fixed``); those of quantile agents are in the
    order of their fractions and may cross.
    """

    values: np.ndarray
    probabilities: np.ndarray
    fixed: bool = False

    def mean(self) -> np.ndarray:
        """Expected return of each action, ``[A]``."""
        return (self.values * self.probabilities).sum(1)

    def unrescaled(self, epsilon: float) -> ReturnDistribution:
        """The same of values that were rescaled by ``h`` with ``epsilon``; 0: they were not."""
        if epsilon == 0:
            return self
        return ReturnDistribution(unrescale(torch.from_numpy(self.values), epsilon).numpy(), self.probabilities)


def distribution_of(values: ActionValues) -> ReturnDistribution | None:
    """What a head returned for one row ``[1, 1]``; None where it holds no distribution (``Scalars``).

    A quantile stands for all fractions nearer to its own than to another's, which for the midpoints of QR-DQN (Dabney
    et al. 2018, lemma 2) is ``1 / N`` each.
    """
    if isinstance(values, Categorical):
        probabilities = values.logits[0, 0].double().softmax(0).T
        return _arrays(values.support.double().expand_as(probabilities), probabilities, fixed=True)
    if isinstance(values, Quantiles):
        fractions, order = values.fractions[0, 0].double().sort()
        edges = torch.nn.functional.pad((fractions[1:] + fractions[:-1]) / 2, (1, 0))
        widths = torch.nn.functional.pad(edges, (0, 1), value=1.0).diff()
        quantiles = values.values[0, 0].double()[order].T
        return _arrays(quantiles, widths.expand_as(quantiles))
    return None


def _arrays(values: Tensor, probabilities: Tensor, *, fixed: bool = False) -> ReturnDistribution:
    return ReturnDistribution(values.cpu().numpy().copy(), probabilities.cpu().numpy().copy(), fixed)


@torch.inference_mode()
def look(
    network: Network, inputs: Inputs, state: Tree, generator: torch.Generator, rescale: float = 0.0
) -> tuple[Tensor, ReturnDistribution | None, Tree]:
    """What a network makes of one row ``[1, 1, ...]`` and the state before it.

    ``rescale`` is the epsilon of the rescaling that its values are in (0: none), which is undone.

    Returns what acting maximizes ``[A]``, the return distribution (None for heads of single values), and the state
    after the row. Sampled quantiles are drawn about ``FRACTIONS`` times, in several unrolls where the samples come
    before the memory.
    """
    features, after = network.unroll(inputs, state, generator)
    samples = FRACTIONS if network.sampled else None
    preferences = network.preferences(features, samples, generator)[0, 0]
    values = network.head(features, samples, generator)
    if features.fractions is not None:
        assert isinstance(values, Quantiles)
        more = [values]
        for _ in range(1, FRACTIONS // values.fractions.shape[2]):
            again = network.head(network.unroll(inputs, state, generator)[0], None, generator)
            assert isinstance(again, Quantiles)
            more.append(again)
        values = Quantiles(torch.cat([m.values for m in more], 2), torch.cat([m.fractions for m in more], 2))
    found = distribution_of(values)
    if rescale:
        preferences, found = unrescale(preferences, rescale), found and found.unrescaled(rescale)
    return preferences, found, after


def wasserstein(
    values: np.ndarray, probabilities: np.ndarray, others: np.ndarray, other_probabilities: np.ndarray
) -> float:
    """1-Wasserstein distance of two discrete distributions, the area between their distribution functions.

    ``values [K]`` with ``probabilities [K]`` and ``others [M]`` with ``other_probabilities [M]``, in any order; the
    result is in the units of the values (Dabney et al. 2018, QR-DQN, equation 3 with p = 1).
    """
    points = np.concatenate([values, others])
    order = np.argsort(points, kind="stable")
    signed = np.concatenate([probabilities, -np.asarray(other_probabilities)])[order]
    return float((np.abs(np.cumsum(signed)[:-1]) * np.diff(points[order])).sum())
