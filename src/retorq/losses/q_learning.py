"""Q-learning, for every kind of value, with or without memory: one loss for the whole family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retorq.losses.outputs import regressed
from retorq.nn.cores import Features
from retorq.nn.network import Network, clip_reward
from retorq.ops.returns import n_step
from retorq.types import Batch, Inputs, LossOutput, Tree
from retorq.values import Scalars, greedy


@dataclass(frozen=True, kw_only=True)
class QLearning:
    """n-step (double) Q-learning on windows of ``burn_in + length + n`` rows.

    Target of row t: ``h(R + g * h_inverse(Z_target(row index, a*)))`` with the n-step return ``R`` of clipped rewards,
    the remaining discount ``g`` and the row ``index`` to bootstrap from (``ops.returns.n_step``); ``a*`` maximizes the
    mean of the online values (double, van Hasselt et al. 2016) or of the target's own. The online network is unrolled
    once; its last ``n`` rows, needed only to choose actions, run without gradient.

    ``error`` is what priorities are made of: ``"td"`` the mean absolute error, ``"loss"`` the loss itself. A game's
    last row is masked; with ``within`` so are all learned rows after the first such one: they are of another game.
    ``carry``: give out both networks' states after the learned rows (``LossOutput.state``).
    """

    burn_in: int = 0
    length: int = 1
    n: int = 1
    gamma: float = 0.99
    double: bool = False
    clip: str = "sign"
    rescale: float = 0.0
    kappa: float = 1.0
    error: str = "td"
    target_samples: int | None = None
    action_samples: int | None = None
    within: bool = False
    carry: bool = False

    def __call__(
        self, online: Network, target: Network, batch: Batch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Loss, error and mask ``[length, B]``; no gradient reaches the target.

        Metrics are those of :func:`retorq.losses.outputs.regressed`.
        """
        rows = batch.trajectory
        told = (rows.action, rows.reward, rows.terminated, rows.last)
        action, reward, terminated, last = (x[self.burn_in :] for x in told)
        discount = self.gamma * (~terminated).float()
        reward, remaining, index = (
            x[: self.length] for x in n_step(clip_reward(reward, self.clip), discount, last, self.n)
        )
        unroll = self._sequences if online.recurrent else self._transitions
        learned, ahead, ahead_target, state = unroll(online, target, batch, index, generator)

        values = online.head(learned, generator=generator)
        with torch.no_grad():
            chooser = online.head(ahead, self.action_samples, generator) if self.double else None
            bootstrap = target.head(ahead_target, self.target_samples, generator)
            if chooser is None:
                # An own draw for the choice, so that the chosen samples are not the ones that flattered it.
                own = target.sampled
                chooser = target.head(ahead_target, self.action_samples, generator) if own else bootstrap
            goal = bootstrap.bellman(greedy(chooser), reward, remaining, self.rescale)
        action, last = action[: self.length], last[: self.length]
        mask = ~last if not self.within else last.cumsum(0) == 0
        carried = state if self.carry else {}
        how: dict[str, Any] = {"kappa": self.kappa, "error": self.error, "rescale": self.rescale}
        return regressed(online, values, action, goal, mask, state=carried, **how)

    def first_errors(self, told: Tree) -> tuple[Tensor, Tensor]:
        """Errors of windows that are new, from what their actor thought when it played (Horgan et al. 2018, section 3).

        ``|h(R + g * h_inverse(highest[index])) - value|`` with the actor's own values: no target network, no double Q.

        Args:
            told: ``reward``, ``terminated``, ``last``, ``value`` and ``highest`` of the learned rows and those ahead,
                each ``[length + n, B]``.

        Returns:
            Error and mask ``[length, B]``; the error is NaN where the actor's network was not asked.
        """
        discount = self.gamma * (~told["terminated"]).float()
        reward, last = clip_reward(told["reward"], self.clip), told["last"]
        total, remaining, index = (x[: self.length] for x in n_step(reward, discount, last, self.n))
        ahead = told["highest"].gather(0, index)
        # Where nothing is bootstrapped, nobody need have been asked.
        ahead = torch.where(remaining > 0, ahead, 0.0)
        best = Scalars(ahead.unsqueeze(-1))
        goal = best.bellman(torch.zeros_like(index), total, remaining, self.rescale)
        mask = last[: self.length].cumsum(0) == 0 if self.within else ~last[: self.length]
        return (goal - told["value"][: self.length]).abs(), mask

    def _sequences(
        self, online: Network, target: Network, batch: Batch, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Features, Features, Features, Tree]:
        """Features of the learned rows, and of each one's bootstrap row by both networks, from one unroll each.

        The last is both networks' states after the learned rows, if they are to be carried on.
        """
        inputs, length = batch.trajectory.inputs, self.length
        carried: Tree = {}
        mine, other = self._burned_in(online, target, inputs, batch.state, generator)
        inputs = inputs.map(lambda a: a[self.burn_in :])
        learned, mine = online.unroll(inputs.map(lambda a: a[:length]), mine, generator)
        with torch.no_grad():
            if self.carry:
                theirs, other = target.unroll(inputs.map(lambda a: a[:length]), other, generator)
                carried = _detach(mine) | {f"target.{name}": value for name, value in other.items()}
                theirs = theirs.join(target.unroll(inputs.map(lambda a: a[length:]), other, generator)[0])
            else:
                theirs, _ = target.unroll(inputs, other, generator)
            everything = learned.detach()
            if self.double:
                rest, _ = online.unroll(inputs.map(lambda a: a[length:]), _detach(mine), generator)
                everything = everything.join(rest)
            ahead = everything.take(index) if self.double else theirs.rows(0, 0)
        return learned, ahead, theirs.take(index), carried

    def _burned_in(
        self, online: Network, target: Network, inputs: Inputs, state: Tree, generator: torch.Generator | None
    ) -> tuple[Tree, Tree]:
        """States after the burn-in rows: each network with its own weights, no gradient.

        Both begin with the same stored state, unless the batch brings the target's own.
        """
        mine = {name: value for name, value in state.items() if not name.startswith("target.")}
        theirs = {name.removeprefix("target."): value for name, value in state.items() if name.startswith("target.")}
        theirs = theirs or mine
        if self.burn_in == 0:
            return mine, theirs
        before = inputs.map(lambda a: a[: self.burn_in])
        with torch.no_grad():
            mine = online.unroll(before, mine, generator)[1]
            theirs = target.unroll(before, theirs, generator)[1]
        # Older versions of PyTorch would use weights that were cast without gradient for the learned rows, too.
        torch.clear_autocast_cache()
        return mine, theirs

    def _transitions(
        self, online: Network, target: Network, batch: Batch, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Features, Features, Features, Tree]:
        """Without memory only two rows of a window matter: the first and the one to bootstrap from."""
        inputs = batch.trajectory.inputs
        learned, _ = online.unroll(inputs.map(lambda a: a[:1]), {}, generator)
        if self.n == 1:  # the one row that follows; where the first is a game's last, it is masked anyway
            following = inputs.map(lambda a: a[1:])
        else:
            width = index.shape[1]
            place = index[0] * width + torch.arange(width, device=index.device)
            following = inputs.map(lambda a: a.flatten(0, 1).index_select(0, place).unsqueeze(0))
        with torch.no_grad():
            theirs, _ = target.unroll(following, {}, generator)
            ahead = online.unroll(following, {}, generator)[0] if self.double else theirs
        return learned, ahead, theirs, {}


def _detach(state: Tree) -> Tree:
    return {name: value.detach() for name, value in state.items()}
