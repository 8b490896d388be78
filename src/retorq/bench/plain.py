"""Recurrent IQN the plain way, as the baseline of the learner's speed: textbook PyTorch, nothing shared, float32.

The same mathematics as ``QLearning`` on the network of ``recurrent_iqn`` (one image, no burn-in, double Q, dueling):
``nn.LSTMCell`` in a loop over time, which clears the memory where an episode begins; three forward passes (target
network; online network for the choice of actions; online network for learning); recorded pairwise losses; plain Adam.
"""

from __future__ import annotations

import copy
from math import pi

import torch
from torch import Tensor, nn

from retorq.nn.cores import LSTM
from retorq.nn.heads import ImplicitQuantile, Streams
from retorq.nn.network import Network
from retorq.nn.torsos import Image
from retorq.types import Batch, Inputs, Tree


class PlainNetwork(nn.Module):
    """Nature convolutions, LSTM cell, quantile head with two streams; takes over the weights of ``network``."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        core, head = network.core, network._head
        assert isinstance(core, LSTM)
        assert isinstance(head, ImplicitQuantile)
        assert head.embedding is not None
        self.actions, self.time_scale = network.extras.actions, network.extras.time_scale
        (image,) = (module for module in network.torso.images.values() if isinstance(module, Image))
        self.convolutions = copy.deepcopy(image.layers)
        self.cell = nn.LSTMCell(core.weight_input.shape[1], core.size)
        self.cosine = copy.deepcopy(head.embedding.linear)
        assert head.streams.hidden is not None
        hidden = head.streams.hidden.out_features // 2
        self.advantage_hidden, self.value_hidden = (nn.Linear(core.size, hidden) for _ in range(2))
        self.advantage, self.value = copy.deepcopy(head.streams.advantage), copy.deepcopy(head.streams.value)
        self._take(core, head.streams)

    def _take(self, core: LSTM, streams: Streams) -> None:
        """The weights that lie otherwise there: the order of the gates, and both streams in one matrix."""
        assert streams.hidden is not None
        with torch.no_grad():
            self.cell.weight_ih.copy_(_gate_order(core.weight_input))
            self.cell.weight_hh.copy_(_gate_order(core.weight_hidden))
            self.cell.bias_ih.copy_(_gate_order(core.bias))
            self.cell.bias_hh.zero_()
            halves = zip(streams.hidden.weight.chunk(2), streams.hidden.bias.chunk(2), strict=True)
            for layer, (weight, bias) in zip((self.advantage_hidden, self.value_hidden), halves, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def features(self, inputs: Inputs, state: Tree) -> Tensor:
        """``[T, B, hidden]``, one LSTM cell after the other."""
        (pixels,) = inputs.observation.values()
        rows, columns = pixels.shape[:2]
        image = self.convolutions(pixels.flatten(0, 1).float() / 255.0).flatten(1).unflatten(0, (rows, columns))
        begun = (~inputs.first).float().unsqueeze(-1)
        action = nn.functional.one_hot(inputs.previous_action, self.actions) * begun
        reward = inputs.previous_reward.sign().unsqueeze(-1) * begun
        clock = (inputs.elapsed.float() / self.time_scale).clamp(max=1.0).unsqueeze(-1)
        x = torch.cat([image, action, reward, clock], dim=-1)
        h, c, outputs = state["h"], state["c"], []
        for t in range(rows):
            h, c = self.cell(x[t], (h * begun[t], c * begun[t]))
            outputs.append(h)
        return torch.stack(outputs)

    def head(self, features: Tensor, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Values ``[T, B, N, A]`` at fresh fractions ``[T, B, N]``."""
        rows, columns = features.shape[:2]
        fractions = torch.rand(rows, columns, samples, device=features.device, generator=generator)
        steps = torch.arange(1, self.cosine.in_features + 1, device=features.device)
        embedding = torch.relu(self.cosine(torch.cos(pi * fractions.unsqueeze(-1) * steps)))
        merged = features.unsqueeze(2) * embedding
        advantage = self.advantage(torch.relu(self.advantage_hidden(merged)))
        value = self.value(torch.relu(self.value_hidden(merged)))
        return value + advantage - advantage.mean(-1, keepdim=True), fractions


def _gate_order(ours: Tensor) -> Tensor:
    """From input, forget, output, cell to the order of ``nn.LSTMCell``: input, forget, cell, output."""
    i, f, o, g = ours.chunk(4)
    return torch.cat([i, f, g, o])


class PlainLearner:
    """Online and target network, loss, clipping, Adam."""

    def __init__(
        self,
        network: Network,
        *,
        samples: int,
        length: int,
        n: int,
        gamma: float,
        seed: int = 0,
        learning_rate: float = 3e-4,
    ) -> None:
        device = next(network.parameters()).device
        self.online = PlainNetwork(network).to(device)
        self.target = copy.deepcopy(self.online)
        self.samples, self.length, self.n, self.gamma = samples, length, n, gamma
        self.generator = torch.Generator(device).manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=learning_rate, eps=1e-5)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """n-step return, remaining discount, and the row to bootstrap from, ``[length, B]`` each."""
        rows, length = batch.trajectory, self.length
        reward = torch.zeros_like(rows.reward[:length])
        discount = torch.ones_like(reward)
        index = torch.arange(length, device=reward.device).unsqueeze(1).expand_as(reward).clone()
        for k in range(self.n):
            going = (~rows.last[k : k + length]) & (index == torch.arange(length, device=index.device).unsqueeze(1) + k)
            reward = reward + discount * rows.reward[k : k + length].sign() * going
            discount = torch.where(going, discount * self.gamma * (~rows.terminated[k : k + length]).float(), discount)
            index = index + going.long()
        return reward, discount, index

    def loss(self, batch: Batch) -> Tensor:
        """Mean quantile Huber loss (kappa 1) over the rows that are no final observation."""
        rows, length = batch.trajectory, self.length
        reward, discount, index = self.targets(batch)
        columns = torch.arange(index.shape[1], device=index.device).expand_as(index)
        learned = self.online.features(rows.inputs.map(lambda a: a[:length]), batch.state)
        values, fractions = self.online.head(learned, self.samples, self.generator)
        with torch.no_grad():
            chooser = self.online.features(rows.inputs, batch.state)[index, columns]
            best = self.online.head(chooser, self.samples, self.generator)[0].mean(2).argmax(-1)
            following = self.target.features(rows.inputs, batch.state)[index, columns]
            bootstrap = _at(self.target.head(following, self.samples, self.generator)[0], best)
            goal = reward.unsqueeze(-1) + discount.unsqueeze(-1) * bootstrap
        pair = goal.unsqueeze(2) - _at(values, rows.action[:length]).unsqueeze(3)
        huber = torch.where(pair.abs() <= 1.0, 0.5 * pair.square(), pair.abs() - 0.5)
        weighted = (fractions.unsqueeze(3) - (pair < 0).float()).abs() * huber
        mask = (~rows.last[:length]).float()
        return (weighted.mean(3).sum(2) * mask * batch.weight).sum() / mask.sum().clamp(min=1)

    def update(self, batch: Batch) -> Tensor:
        """One step of Adam; returns the loss."""
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.online.parameters(), 40.0)
        self.optimizer.step()
        return loss.detach()


def _at(values: Tensor, action: Tensor) -> Tensor:
    """``[T, B, N, A]`` at ``action [T, B]``: ``[T, B, N]``."""
    index = action[..., None, None].expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)
