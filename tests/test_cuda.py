"""The same numbers on a GPU as on the CPU: loss, gradients, updates and sampled batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.nn.small import ACTIONS, HIDDEN, OBSERVATION, gradients, make_batch, make_inputs, make_network

from retorq.learner import Learner
from retorq.losses.q_learning import QLearning
from retorq.replay.replay import Replay
from retorq.replay.samplers import Priorities
from retorq.replay.storage import Layout
from retorq.replay.windows import Window
from retorq.types import EnvSpec

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

LENGTH, COLUMNS = 5, 6
LOSS = QLearning(length=LENGTH, n=2, double=True, burn_in=2)
KINDS = ["after", "outer", "inner", "separate", "none"]


def loss_for(kind):
    return replace(LOSS, length=1, burn_in=0) if kind == "none" else LOSS


def moved(batch, device):
    return replace(
        batch,
        trajectory=batch.trajectory.map(lambda a: a.to(device)),
        state={name: value.to(device) for name, value in batch.state.items()},
        weight=batch.weight.to(device),
    )


@pytest.fixture
def same_fractions(monkeypatch):
    """Every device draws from one CPU generator, in the same order; a call starts that over."""
    shared, draw = torch.Generator(), torch.rand

    def rand(*shape, device=None, generator=None):
        return draw(*shape, generator=shared).to(device)

    monkeypatch.setattr(torch, "rand", rand)
    return lambda: shared.manual_seed(0)


def make_learner(kind, device, **more):
    network = make_network(kind, "iqn", seed=1)
    return Learner(network, loss_for(kind), learning_rate=1e-3, optimizer_epsilon=1e-2, device=device, **more)


def a_batch(kind, learner, seed=0):
    loss = loss_for(kind)
    return make_batch(make_network(kind, "iqn"), loss.burn_in + loss.length + loss.n, COLUMNS, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_error_mask_and_gradients_equal_the_cpu(kind, same_fractions):
    results = []
    for device in ("cpu", GPU):
        same_fractions()
        learner = make_learner(kind, device, clip_gradient=1e9)
        error, mask, metrics, _ = learner.update(moved(a_batch(kind, learner), device))
        assert error.device.type == torch.device(device).type
        grads = {name: g.cpu() for name, g in gradients(learner.online).items()}
        results.append(({name: v.cpu() for name, v in metrics.items()}, error.cpu(), mask.cpu(), grads))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_several_updates_equal_the_cpu(kind, same_fractions):
    results = []
    for device in ("cpu", GPU):
        same_fractions()
        learner = make_learner(kind, device, target_period=2, anneal=True)
        for step in range(4):
            learner.update(moved(a_batch(kind, learner, step), device), progress=step / 10)
        results.append({name: value.cpu() for name, value in learner.state_dict()[0].items() if name != "generator"})
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_a_non_finite_loss_is_skipped():
    learner = make_learner("after", GPU)
    before = {name: value.clone() for name, value in learner.online.state_dict().items()}
    bad = moved(a_batch("after", learner), GPU)
    bad.trajectory.inputs.observation["obs"][3] = float("nan")
    for count in (1, 2):
        assert learner.update(bad)[2]["skipped"].item() == count
    assert all(torch.equal(value, before[name]) for name, value in learner.online.state_dict().items())


def test_half_precision_is_close():
    losses = []
    for precision in ("fp32", "bf16"):
        learner = make_learner("after", GPU, precision=precision)
        losses.append(learner.update(moved(a_batch("after", learner), GPU))[2]["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_step_equals_a_plain_one(kind):
    """The same seed draws the same fractions, so weights, moments and metrics agree."""
    results = []
    for recorded in (False, True):
        learner = make_learner(kind, GPU, cuda_graph=recorded, target_period=2, anneal=True)
        losses = [
            learner.update(moved(a_batch(kind, learner, step), GPU), step / 10)[2]["loss"].cpu() for step in range(4)
        ]
        state = {name: value for name, value in learner.state_dict()[0].items() if name != "generator"}
        results.append((torch.stack(losses), state))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_a_saved_learner_goes_on_the_same_way():
    one, other = make_learner("after", GPU), make_learner("after", GPU, seed=5)
    one.update(moved(a_batch("after", one), GPU))
    other.load_state_dict(*one.state_dict())
    batch = moved(a_batch("after", one, 3), GPU)
    torch.testing.assert_close(one.update(batch)[2], other.update(batch)[2])


@pytest.mark.parametrize("prioritized", [False, True])
def test_sampled_batches_equal_the_cpu(prioritized):
    spec = EnvSpec(id="Numbers-v0", observation=OBSERVATION, actions=ACTIONS)
    window = Window(length=LENGTH, ahead=2, burn_in=2, period=3)
    layout = Layout(spec=spec, state={"h": (HIDDEN,), "c": (HIDDEN,)}, period=3)
    draw = np.random.default_rng(0)
    replays = [
        Replay(
            layout=layout,
            window=window,
            columns=COLUMNS,
            capacity=30 * COLUMNS,
            priorities=Priorities() if prioritized else None,
            device=device,
            seed=3,
        )
        for device in ("cpu", GPU)
    ]
    network = make_network()
    for chunk in range(4):  # 48 rows into 30: it wraps around
        trajectory = make_batch(network, 12, COLUMNS, seed=chunk).trajectory.map(lambda a: a.numpy())
        states = {f"state.{n}": torch.from_numpy(draw.random((12, COLUMNS, HIDDEN), np.float32)) for n in ("h", "c")}
        for replay in replays:
            replay.extend(np.arange(COLUMNS), replace(trajectory, extras=states))
    error = torch.from_numpy(draw.random((LENGTH, 16), dtype=np.float32))
    mask = torch.ones(LENGTH, 16, dtype=torch.bool)
    for _ in range(3):
        samples = [replay.sample(16) for replay in replays]
        assert samples[1].trajectory.action.device.type == torch.device(GPU).type
        assert np.array_equal(samples[0].keys, samples[1].keys)
        torch.testing.assert_close(samples[0].weight, samples[1].weight.cpu())
        torch.testing.assert_close(samples[0].state, {n: v.cpu() for n, v in samples[1].state.items()})
        parts = []
        for sample in samples:
            found: list[torch.Tensor] = []
            sample.trajectory.map(lambda a, found=found: found.append(a.cpu()) or a)
            parts.append(found)
        assert len(parts[0]) == len(parts[1]) > 8
        assert all(torch.equal(a, b) for a, b in zip(*parts, strict=True))
        for replay, sample in zip(replays, samples, strict=True):
            replay.update(sample.keys, error.to(sample.weight.device), mask.to(sample.weight.device))


def test_acting_equals_the_cpu():
    network, inputs = make_network("after"), make_inputs(4, 3)
    expected = network(inputs, network.initial_state(3))[0].mean()
    network = network.to(GPU)
    values, _ = network(inputs.map(lambda a: a.to(GPU)), network.initial_state(3, GPU))
    torch.testing.assert_close(values.mean().cpu(), expected, rtol=1e-4, atol=1e-5)
