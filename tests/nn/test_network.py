"""Networks and torsos: what the core reads beside the observation, shapes, and the published number of weights."""

import pytest
import torch
from tests.nn.small import make_inputs, make_network

from retorq.algorithms.recurrent_iqn import Config, make
from retorq.nn.heads import ImplicitQuantile, Quantile, Scalar
from retorq.nn.network import Extras, clip_reward, zero_biases
from retorq.nn.torsos import Image, Torso, convolutions_for
from retorq.ops.risk import Risk
from retorq.types import EnvSpec, Inputs, Leaf


def some_inputs():
    return Inputs(
        observation={},
        previous_action=torch.tensor([[2, 1]]),
        previous_reward=torch.tensor([[-3.0, 0.4]]),
        elapsed=torch.tensor([[5, 400]], dtype=torch.int32),
        first=torch.tensor([[False, False]]),
    )


def test_extras_in_their_order():
    encoded = Extras(actions=3, action=True, reward=True, time=True, time_scale=100.0).encode(some_inputs())
    torch.testing.assert_close(encoded, torch.tensor([[[0, 0, 1, -1, 0.05], [0, 1, 0, 1, 1.0]]]))


def test_the_first_row_of_an_episode_has_no_past_but_keeps_the_time():
    inputs = some_inputs()
    begun = Inputs(**vars(inputs) | {"first": torch.tensor([[True, False]])})
    encoded = Extras(actions=3, action=True, reward=True, time=True, time_scale=100.0).encode(begun)
    torch.testing.assert_close(encoded, torch.tensor([[[0, 0, 0, 0, 0.05], [0, 1, 0, 1, 1.0]]]))


@pytest.mark.parametrize(("name", "columns"), [("action", 3), ("reward", 1), ("time", 1)])
def test_each_extra_is_a_switch(name, columns):
    every = Extras(actions=3, action=True, reward=True, time=True)
    alone = Extras(actions=3, **{name: True})
    assert alone.size == columns
    part = {"action": slice(0, 3), "reward": slice(3, 4), "time": slice(4, 5)}[name]
    torch.testing.assert_close(alone.encode(some_inputs()), every.encode(some_inputs())[..., part])
    assert Extras(actions=3).encode(some_inputs()) is None
    assert Extras(actions=3).size == 0


def test_reward_clipping():
    reward = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0])
    assert clip_reward(reward, "sign").tolist() == [-1, -1, 0, 1, 1]
    assert clip_reward(reward, "clip").tolist() == [-1, -0.5, 0, 0.5, 1]
    assert clip_reward(reward, "none").tolist() == reward.tolist()


def test_the_network_clips_the_previous_reward_as_the_loss_does():
    for clip, expected in (("sign", 1.0), ("clip", 0.4), ("none", 0.4)):
        assert Extras(actions=3, reward=True, clip=clip).encode(some_inputs())[0, 1, 0].item() == pytest.approx(
            expected
        )


@pytest.mark.parametrize("kind", ["none", "after", "inner", "separate"])
def test_one_unroll_equals_one_row_at_a_time_through_the_whole_network(kind):
    network = make_network(kind)
    first = torch.zeros(5, 2, dtype=torch.bool)
    first[0, 0] = first[2, 1] = True
    inputs, state = make_inputs(5, 2, first=first), network.initial_state(2)
    one, two = (torch.Generator().manual_seed(3) for _ in range(2))
    whole, end = network.unroll(inputs, state, one)
    for t in range(5):
        features, state = network.unroll(inputs.map(lambda a, t=t: a[t : t + 1]), state, two)
        torch.testing.assert_close(features.x[0], whole.x[t])
    torch.testing.assert_close(end, state)


def test_forward_is_unroll_and_head():
    network, inputs = make_network("after"), make_inputs(3, 2)
    values, state = network(inputs, network.initial_state(2))
    features, end = network.unroll(inputs, network.initial_state(2))
    torch.testing.assert_close(values.mean(), network.head(features).mean())
    torch.testing.assert_close(state, end)
    assert network.recurrent
    assert not make_network("none").recurrent


def test_the_published_network_has_the_measured_number_of_weights():
    """8,125,607 were measured with 6 actions; there the LSTM has two biases that are only ever added, ours has one."""
    frame = Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")
    network = make(Config(), EnvSpec(id="Pong", observation={"obs": frame}, actions=6)).network
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_children()}
    assert count["torso"] == (64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    assert count["core"] == 2048 * (3136 + 6 + 1 + 1) + 2048 * 512 + 2048
    assert count["_head"] == 65 * 512 + 2 * 513 * 512 + 513 * 6 + 513
    assert sum(count.values()) == 8_125_607 - 2048


def test_zero_biases_leaves_those_of_the_memory():
    network = make_network("after")
    zero_biases(network)
    assert all(m.bias.abs().sum() == 0 for m in network.modules() if isinstance(m, torch.nn.Linear))
    assert network.core.bias.abs().min() > 0


def test_pixels_are_scaled_once_and_only_if_they_are_bytes():
    bytes_leaf = Leaf(kind="image", shape=(1, 12, 12), dtype="uint8")
    module = Image(bytes_leaf, "minatar")
    pixels = torch.randint(0, 256, (2, 3, 1, 12, 12), dtype=torch.uint8)
    expected = module.layers((pixels.float() / 255).flatten(0, 1)).flatten(1).unflatten(0, (2, 3))
    torch.testing.assert_close(module(pixels), expected)
    floats = Image(Leaf(kind="image", shape=(1, 12, 12), dtype="float32"), "minatar")
    floats.load_state_dict(module.state_dict())
    torch.testing.assert_close(floats(pixels.float() / 255), expected)


def test_the_mean_image_is_subtracted_once_it_is_known():
    leaf = Leaf(kind="image", shape=(1, 12, 12), dtype="uint8")
    module = Image(leaf, "minatar", center=True)
    pixels = torch.randint(0, 256, (4, 3, 1, 12, 12), dtype=torch.uint8)
    images = (pixels.float() / 255).flatten(0, 1)
    before = module(pixels)
    torch.testing.assert_close(before, module.layers(images).flatten(1).unflatten(0, (4, 3)))
    module.set_mean(pixels)
    expected = module.layers(images - images.mean(0)).flatten(1).unflatten(0, (4, 3))
    torch.testing.assert_close(module(pixels), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, expected)


def test_layer_normalization_ends_the_torso():
    torso = Torso({"obs": Leaf(kind="vector", shape=(6,), dtype="float32")}, hidden=(16,), norm=True)
    features = torso({"obs": torch.randn(3, 2, 6) * 100})
    torch.testing.assert_close(features.mean(-1), torch.zeros(3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(-1, unbiased=False), torch.ones(3, 2), atol=1e-3, rtol=0)


def test_every_part_of_an_observation_is_encoded_by_its_kind():
    torso = Torso(
        {
            "image": Leaf(kind="image", shape=(2, 4, 5), dtype="uint8"),
            "which": Leaf(kind="discrete", shape=(), dtype="int64", high=3),
            "bits": Leaf(kind="binary", shape=(2,), dtype="int8"),
            "vector": Leaf(kind="vector", shape=(2,), dtype="float32"),
        }
    )
    observation = {
        "image": torch.full((1, 1, 2, 4, 5), 255, dtype=torch.uint8),
        "which": torch.tensor([[1]]),
        "bits": torch.tensor([[[1, 0]]], dtype=torch.int8),
        "vector": torch.tensor([[[0.5, -7.0]]]),
    }
    assert torso(observation)[0, 0].tolist() == [1.0] * 40 + [0, 1, 0] + [1, 0] + [0.5, -7.0]
    assert torso.size == 47


def test_hidden_layers_and_stacked_images_change_the_size():
    leaf = {"obs": Leaf(kind="image", shape=(1, 84, 84), dtype="uint8")}
    assert Torso(leaf).size == 3136
    deep = Torso(leaf, hidden=(9, 7), stack=4)
    assert deep.size == 7
    assert deep({"obs": torch.zeros(2, 1, 4, 84, 84, dtype=torch.uint8)}).shape == (2, 1, 7)


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 84, 84), "nature"), ((3, 36, 40), "nature"), ((4, 10, 10), "minatar"), ((1, 5, 9), "flat")]
)
def test_convolutions_by_size(shape, kind):
    assert convolutions_for(shape) == kind
    assert Torso({"obs": Leaf(kind="image", shape=shape, dtype="uint8")}).size > 0


def test_an_image_too_small_for_its_convolutions():
    with pytest.raises(ValueError, match=r"\(1, 10, 10\).*too small.*nature"):
        Torso({"obs": Leaf(kind="image", shape=(1, 10, 10), dtype="uint8")}, convolutions="nature")


@pytest.mark.parametrize(
    ("kind", "head", "sampled"),
    [("none", "iqn", True), ("after", "iqn", True), ("inner", "iqn", False), ("none", "scalar", False)],
)
def test_a_network_is_sampled_if_its_head_draws_the_fractions(kind, head, sampled):
    network, inputs = make_network(kind, head), make_inputs(2, 3)
    assert network.sampled is sampled
    features, _ = network.unroll(inputs, network.initial_state(3))
    one, two = (network.head(features) for _ in range(2))
    assert torch.equal(one.values, two.values) is not sampled


def with_head(head):
    network = make_network("none", "scalar")
    network._head = head(network.core.size)
    return network


def test_a_noisy_network_tells_how_much():
    quiet, noisy = (with_head(lambda size, n=n: Quantile(size, 7, 3, quantiles=5, noise=n)) for n in (0.0, 0.5))
    assert (quiet.noisy, noisy.noisy) == (False, True)
    assert not noisy.sampled
    assert quiet.diagnostics() == {}
    layers = [noisy._head.streams.hidden, noisy._head.streams.advantage]
    with torch.no_grad():
        layers[0].weight_sigma[0] *= -3
    every = torch.cat([s.flatten() for layer in layers for s in (layer.weight_sigma, layer.bias_sigma)])
    told = noisy.diagnostics()
    assert set(told) == {"noise"}
    assert told["noise"].item() == pytest.approx(every.abs().mean().item())
    assert not told["noise"].requires_grad


def test_noise_is_on_in_training_mode_only():
    network, inputs = with_head(lambda size: Scalar(size, 7, 3, dueling=True, noise=0.5)), make_inputs(2, 3)
    assert not torch.equal(network(inputs, {})[0].mean(), network(inputs, {})[0].mean())
    network.eval()
    assert torch.equal(network(inputs, {})[0].mean(), network(inputs, {})[0].mean())


def test_zero_biases_leaves_noisy_layers_at_their_own_initialization():
    network = with_head(lambda size: Scalar(size, 7, 3, noise=0.5))
    before = [p.clone() for p in network._head.parameters()]
    zero_biases(network)
    assert all(torch.equal(p, old) for p, old in zip(network._head.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["scalar", "quantile", "iqn", "risk", "inner"])
def test_preferences_are_what_acting_maximizes(name):
    """The mean of the head's values; under a risk, that at distorted fractions."""
    risk = Risk("cvar", 0.25) if name == "risk" else None
    heads = {
        "scalar": lambda size: Scalar(size, 7, 3),
        "quantile": lambda size: Quantile(size, 7, 3, quantiles=4),
        "iqn": lambda size: ImplicitQuantile(size, 7, 3, samples=4),
        "risk": lambda size: ImplicitQuantile(size, 7, 3, samples=4, risk=risk),
    }
    network = make_network("inner", "iqn") if name == "inner" else with_head(heads[name])
    features, _ = network.unroll(make_inputs(2, 3), network.initial_state(3))
    one, two = (torch.Generator().manual_seed(7) for _ in range(2))
    told, values = network.preferences(features, 6, one), network.head(features, 6, two)
    assert told.shape == (2, 3, 3)
    assert told.dtype == torch.float32
    expected = network._head.at(features, 0.25 * values.fractions).mean() if risk else values.mean()
    torch.testing.assert_close(told, expected)
    assert (risk is None) == torch.allclose(told, values.mean())
