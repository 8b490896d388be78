"""Learner: the online network, its target, the optimizer, and the one place where a batch becomes an update."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from retorq.capture import Captured
from retorq.nn.network import Network
from retorq.ops.generators import put_back
from retorq.optimizers import AdaGrad, Adam, CenteredRMSProp, Optimizer
from retorq.types import Batch, LossOutput, Refused, Tree, UserError

Precision = Literal["fp32", "bf16"]
Rule = Literal["adam", "rmsprop", "adagrad"]
STATE = "state."  # before the names of carried states, among a step's outputs


class Loss(Protocol):
    """Anything that turns two networks and a batch into per-row losses."""

    def __call__(
        self, online: Network, target: Network, batch: Batch, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Loss, error and mask ``[T, B]``."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Parameters, named by how their names begin, that are learned at a rate of their own.

    ``clip``: every element of their gradients is cut to ``[-clip, clip]``; None: none.
    """

    prefix: str
    learning_rate: float
    clip: float | None = None


class Learner:
    """Loss, mask, weights, backward, clip, step and target copy, in this one place.

    Args:
        network: The online network (moved to ``device``); the target starts as its copy.
        loss: Called as ``loss(online, target, batch, generator)``.
        learning_rate: Step size of the optimizer at progress 0.
        optimizer_epsilon: The optimizer's epsilon: Adam's and AdaGrad's beside the root, RMSProp's inside it.
        optimizer: ``"adam"``; ``"rmsprop"``: centered, as Nature DQN's; or ``"adagrad"`` (``retorq.optimizers``).
        anneal: Decay the learning rate linearly to 0 over the run.
        clip_gradient: Global L2 norm to clip gradients to; infinite: none.
        apart: Parameters with a learning rate of their own, if any.
        target_period: Updates between hard copies into the target.
        time_reduction: ``"mean"`` over all unmasked rows, or ``"sum"`` over time and mean over windows (R2D2).
        precision: ``"bf16"`` runs matrix products in bfloat16; values, losses, targets and weights stay float32.
        cuda_graph: Record the whole step as a CUDA graph and replay it (CUDA only).
        device: Where to learn.
        seed: Seed of the generator that draws quantile fractions.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        *,
        learning_rate: float,
        optimizer_epsilon: float,
        optimizer: Rule = "adam",
        anneal: bool = False,
        clip_gradient: float = 40.0,
        apart: Apart | None = None,
        target_period: int = 125,
        time_reduction: Literal["mean", "sum"] = "mean",
        precision: Precision = "fp32",
        cuda_graph: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.online = network.to(self.device)
        self.parameters = list(self.online.parameters())  # to look for them takes longer than a small step
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.loss, self.learning_rate, self.anneal = loss, learning_rate, anneal
        self.clip_gradient, self.target_period, self.time_reduction = clip_gradient, target_period, time_reduction
        self.precision = precision
        self.generator = torch.Generator(self.device).manual_seed(seed)
        on_gpu = self.device.type == "cuda"
        self.apart = apart
        groups = _groups(self.online, learning_rate, apart)
        self.optimizer = made_optimizer(optimizer, groups, optimizer_epsilon, self.device)
        self.updates = 0
        self.reseeded = False  # what was loaded is of another kind of device
        self.skipped_in_a_row = torch.zeros((), device=self.device)
        if cuda_graph and not on_gpu:
            raise UserError(f"cuda_graph is true, but the device is {self.device}; set it to false or use cuda.")
        self.cuda_graph = cuda_graph
        self._captured: Captured | None = None

    def gradient(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the clipped gradient of a batch in the online parameters, whose gradients start as None.

        Returns:
            Error, mask, metrics and carried states by name, and 1 where loss or gradient is not finite, else 0; all
            still on the device.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.loss(self.online, self.target, batch, self.generator)
        weighted = output.loss.float() * output.mask * batch.weight
        if output.unweighted is not None:
            weighted = weighted + output.unweighted.float() * output.mask
        if self.time_reduction == "sum":
            total = weighted.sum(0).mean()
        else:
            total = weighted.sum() / output.mask.sum().clamp(min=1)
        total.backward()  # type: ignore[no-untyped-call]
        norm = clipped(self.parameters, self.clip_gradient)
        if self.apart is not None and self.apart.clip is not None:  # after the norm, which must see what is not finite
            torch.nn.utils.clip_grad_value_(self.optimizer.param_groups[-1]["params"], self.apart.clip)
        bad = (~torch.isfinite(norm + total.detach())).float()  # one look at both: these are many small operations
        metrics = {"loss": total.detach(), "gradient_norm": norm}
        carried = {f"{STATE}{name}": value for name, value in output.state.items()}
        return {"error": output.error.float(), "mask": output.mask, **output.metrics, **metrics, **carried}, bad

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """One update, as a function of tensors only: nothing here waits for the device. Gradients start as None."""
        told, bad = self.gradient(batch)
        self.optimizer.found_inf = bad  # skips the step where it is 1, without a round trip to the host
        self.optimizer.step()
        self.skipped_in_a_row.copy_((self.skipped_in_a_row + 1) * bad)
        return told | {"skipped": self.skipped_in_a_row.clone()}

    def update(self, batch: Batch, progress: float = 0.0) -> tuple[Tensor, Tensor, dict[str, Tensor], Tree]:
        """Learn from one batch; ``progress`` in [0, 1] is the share of the run done.

        Returns error and mask ``[T, B]``, scalar metrics, and the recurrent states that the loss carries on
        (``LossOutput.state``), all still on the device. A non-finite loss or gradient changes no weight and is counted
        in the metric ``skipped`` (how many in a row).
        """
        self.set_learning_rate(progress)
        if self.cuda_graph:
            metrics = self._replayed(batch)
        else:
            self._clear()
            metrics = self._step(batch)
        self.updates += 1
        if self.updates % self.target_period == 0:
            self.sync_target()
        return unpacked(metrics)

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _replayed(self, batch: Batch) -> dict[str, Tensor]:
        with torch.cuda.device(self.device):  # a stream belongs to the current one, which need not be this
            return self._recorded(batch)

    def _recorded(self, batch: Batch) -> dict[str, Tensor]:
        """The step as a CUDA graph, recorded at the first batch."""
        if self._captured is None:
            before, skipped = self.state_dict(), self.skipped_in_a_row.clone()
            fresh = not self.optimizer.state
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # what is created lazily must exist before recording
                    self._clear()
                    self._step(batch)
            torch.cuda.current_stream().wait_stream(side)
            self.load_state_dict(*before)  # the trial updates leave no trace
            if fresh:
                for state in self.optimizer.state.values():
                    torch._foreach_zero_(list(state.values()))
            self.skipped_in_a_row.copy_(skipped)
            self._clear()
            self._captured = Captured(self._step, batch, self.generator)
        return self._captured(batch)

    def center(self, observation: Tree) -> None:
        """Set the mean images that both networks subtract, from observations ``[T, B, ...]``."""
        self.online.center(observation)
        self.target.center(observation)

    def rate(self, progress: float) -> float:
        """The learning rate: linear decay to 0 over the run, or constant."""
        return self.learning_rate * (max(0.0, 1.0 - progress) if self.anneal else 1.0)

    def set_learning_rate(self, progress: float) -> None:
        """Hand it to the optimizer, to each of its groups."""
        share = max(0.0, 1.0 - progress) if self.anneal else 1.0
        for group in self.optimizer.param_groups:
            rate = group["rate"] * share
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def sync_target(self) -> None:
        """Hard copy of the online weights into the target."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.target.parameters()), list(self.online.parameters()))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (online, target, optimizer, generator) and plain numbers, apart because they are saved apart."""
        tensors = {f"online.{k}": v for k, v in self.online.state_dict().items()}
        tensors |= {f"target.{k}": v for k, v in self.target.state_dict().items()}
        for name, parameter in self.online.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        tensors["generator"] = self.generator.get_state()
        return {k: v.detach().cpu() for k, v in tensors.items()}, {"updates": self.updates}

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Put back ``state_dict``; ``reseeded`` tells whether random numbers could not go on, on another device.

        Raises:
            Refused: The weights do not fit this network.
        """
        for prefix, module in (("online.", self.online), ("target.", self.target)):
            load_weights(module, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.online.named_parameters():
            saved = {
                k.split(".")[1]: v
                for k, v in tensors.items()
                if k.startswith("optimizer.") and k.split(".", 2)[2] == name
            }
            if saved:
                # Copies: the optimizer writes in place, and what was loaded may be another learner's own moments.
                self.optimizer.state[parameter] = {k: v.to(self.device, copy=True) for k, v in saved.items()}
        self.reseeded = not put_back(self.generator, tensors["generator"])
        self._captured = None  # it was recorded on the tensors that have just been replaced
        self.updates = int(numbers["updates"])


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Put saved weights into a network.

    Raises:
        Refused: They are another network's.
    """
    mine = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(mine.keys() | saved.keys()):
        if mine.get(name) != saved.get(name):
            there, here = saved.get(name, "not there"), mine.get(name, "not there")
            raise Refused(
                f"the weights of this run do not fit: {name} is {there} in the checkpoint and {here} for the "
                "environment as it is now; give the environment its old observations and actions, or begin a new run."
            )
    network.load_state_dict(weights)


def unpacked(told: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor], Tree]:
    """What a step tells, as error, mask, metrics and carried states."""
    state = {name.removeprefix(STATE): told.pop(name) for name in [*told] if name.startswith(STATE)}
    return told.pop("error"), told.pop("mask"), told, state


def _groups(network: Network, rate: float, apart: Apart | None) -> list[dict[str, Any]]:
    """The optimizer's groups of parameters, those apart last; ``rate`` is a group's learning rate at progress 0."""
    if apart is None:
        return [{"params": list(network.parameters()), "rate": rate}]
    of: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
    for name, parameter in network.named_parameters():
        of[name.startswith(apart.prefix)].append(parameter)
    if not (of[True] and of[False]):
        raise ValueError(f"prefix is {apart.prefix!r}, with which all parameters begin or none: give a part of them")
    return [{"params": of[False], "rate": rate}, {"params": of[True], "rate": apart.learning_rate}]


def made_optimizer(name: Rule, groups: list[dict[str, Any]], epsilon: float, device: torch.device) -> Optimizer:
    """An optimizer by its name, of groups of ``params`` with a ``rate`` each.

    On a GPU learning rates are tensors, so that a recorded step sees them change.
    """
    on_gpu = device.type == "cuda"
    for group in groups:
        group["lr"] = torch.tensor(group["rate"], device=device) if on_gpu else group["rate"]
    rate = groups[0]["lr"]
    if name == "rmsprop":
        return CenteredRMSProp(groups, rate, eps=epsilon)
    if name == "adagrad":
        return AdaGrad(groups, rate, eps=epsilon)
    return Adam(groups, rate, eps=epsilon)


def clipped(parameters: list[torch.nn.Parameter], longest: float) -> Tensor:
    """Shorten the gradients, taken together, to an L2 norm of ``longest``; returns the norm that they had.

    As ``torch.nn.utils.clip_grad_norm_``, which sorts them by device and type first.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (longest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def seeds(seed: int, count: int) -> list[int]:
    """Independent seeds for the parts of a run, from the one seed the user gives."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(count)]
