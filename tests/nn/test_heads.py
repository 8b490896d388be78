"""Heads: the dueling identity, fresh fractions for every role, and what the head does with them."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from retorq.nn.cores import Features
from retorq.nn.heads import Categorical, ImplicitQuantile, Quantile, Scalar, Streams
from retorq.nn.noisy import NoisyLinear
from retorq.ops.risk import Risk
from retorq.types import UserError

T, B, F, A, N = 4, 3, 5, 6, 8


def features():
    return Features(torch.randn(T, B, F, generator=torch.Generator().manual_seed(0)))


def head(**more):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ImplicitQuantile(F, 7, A, **{"samples": N, "dueling": True} | more)


def state_value(streams, x):
    return streams.value(torch.relu(streams.hidden(x))[..., 7:])


@torch.no_grad()
def test_the_mean_over_actions_is_the_state_value_for_every_quantile():
    module = head()
    values = module(features(), generator=torch.Generator().manual_seed(3))
    x = features().x.unsqueeze(2) * module.embedding(values.fractions)
    torch.testing.assert_close(values.values.mean(-1, keepdim=True), state_value(module.streams, x))
    scalar = Scalar(F, 7, A, dueling=True)
    torch.testing.assert_close(
        scalar(features()).mean().mean(-1, keepdim=True), state_value(scalar.streams, features().x)
    )


@torch.no_grad()
def test_dueling_differences_between_actions_are_those_of_the_advantage_stream():
    streams = Streams(F, 7, A, dueling=True)
    x = features().x
    advantage = streams.advantage(torch.relu(streams.hidden(x))[..., :7])
    combined = streams(x)
    torch.testing.assert_close(combined - combined[..., :1], advantage - advantage[..., :1])


@torch.no_grad()
def test_a_plain_stream_is_two_layers():
    streams = Streams(F, 7, A)
    x = features().x
    expected = torch.relu(x @ streams.hidden.weight.T + streams.hidden.bias) @ streams.advantage.weight.T
    torch.testing.assert_close(streams(x), expected + streams.advantage.bias)
    assert sum(p.numel() for p in streams.parameters()) == (F + 1) * 7 + (7 + 1) * A


def test_fractions_are_fresh_and_independent_per_call_row_column_and_sample():
    module, generator = head(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        draws = torch.stack([module(features(), generator=generator).fractions for _ in range(200)])
    assert draws.shape == (200, T, B, N)
    assert len(draws.unique()) > 0.995 * draws.numel()  # float32 uniforms repeat now and then
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.var().item() == pytest.approx(1 / 12, rel=0.02)
    correlation = torch.corrcoef(draws.flatten(1).T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.35  # 200 draws: five standard errors


def test_the_generator_decides_the_fractions():
    module = head()
    one, two, other = (module(features(), generator=torch.Generator().manual_seed(s)).fractions for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@torch.no_grad()
def test_each_sample_is_valued_at_its_own_fraction():
    module = head(dueling=False)
    values = module(features(), samples=3, generator=torch.Generator().manual_seed(4))
    assert values.values.shape == (T, B, 3, A)
    for t, b, n in ((0, 0, 0), (1, 2, 1), (3, 1, 2)):
        modulated = features().x[t, b] * module.embedding(values.fractions[t, b, n])
        torch.testing.assert_close(values.values[t, b, n], module.streams(modulated))


def test_features_that_carry_fractions_are_valued_at_those():
    module = head(embed=False)
    assert module.embedding is None
    carried = Features(torch.randn(T, B, 2, F), torch.rand(T, B, 2))
    values = module(carried)
    assert values.fractions is carried.fractions
    torch.testing.assert_close(values.values, module.streams(carried.x))
    with pytest.raises(ValueError, match="carry none"):
        module(features())


@pytest.mark.parametrize("dueling", [True, False])
def test_values_are_float32_in_half_precision(dueling):
    module = head(dueling=dueling)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(features(), generator=torch.Generator().manual_seed(1)).values
    exact = module(features(), generator=torch.Generator().manual_seed(1)).values
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() / exact.norm() < 0.03


HEADS = {
    "scalar": Scalar,
    "quantile": partial(Quantile, quantiles=N),
    "categorical": partial(Categorical, atoms=11, low=-2.0, high=3.0),
    "implicit": partial(ImplicitQuantile, samples=N),
}


def make(name, seed=1, hidden=7, **more):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HEADS[name](F, hidden, A, **more)


@torch.no_grad()
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_dueling_combines_each_output_by_itself_over_the_actions(outputs):
    """Loops in the notation of the paper: V_k + A_k(a) - mean over b of A_k(b), of two separate streams."""
    streams, x = Streams(F, 7, A, outputs=outputs, dueling=True), features().x
    told = streams(x)
    assert told.shape == ((T, B, A) if outputs == 1 else (T, B, outputs, A))
    hidden = torch.relu(x @ streams.hidden.weight.T + streams.hidden.bias)
    advantage = (hidden[..., :7] @ streams.advantage.weight.T + streams.advantage.bias).view(T, B, outputs, A)
    value = hidden[..., 7:] @ streams.value.weight.T + streams.value.bias
    for k in range(outputs):
        for a in range(A):
            expected = value[..., k] + advantage[..., k, a] - sum(advantage[..., k, b] for b in range(A)) / A
            torch.testing.assert_close(told.view(T, B, outputs, A)[..., k, a], expected)


@torch.no_grad()
@pytest.mark.parametrize("outputs", [1, 3])
def test_without_a_hidden_layer_the_outputs_lie_on_the_features(outputs):
    x = features().x
    plain, dueling = (Streams(F, 0, A, outputs=outputs, dueling=dueling) for dueling in (False, True))
    advantage = (x @ plain.advantage.weight.T + plain.advantage.bias).view(T, B, outputs, A)
    torch.testing.assert_close(plain(x).view(T, B, outputs, A), advantage)
    assert sum(p.numel() for p in plain.parameters()) == (F + 1) * outputs * A
    advantage = (x @ dueling.advantage.weight.T + dueling.advantage.bias).view(T, B, outputs, A)
    value = (x @ dueling.value.weight.T + dueling.value.bias).view(T, B, outputs, 1)
    expected = value + advantage - advantage.mean(-1, keepdim=True)
    torch.testing.assert_close(dueling(x).view(T, B, outputs, A), expected)


@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize("name", HEADS)
def test_two_streams_send_less_gradient_back_if_rescaled(name, hidden):
    """Into the features times 1/sqrt(2), so half its square; nothing else changes, and one stream alone is left."""
    found = {}
    for dueling, rescale in ((True, False), (True, True), (False, False), (False, True)):
        module = make(name, hidden=hidden, dueling=dueling, rescale=rescale)
        x = features().x.requires_grad_()
        values = module(Features(x), generator=torch.Generator().manual_seed(3)).mean()
        values.square().sum().backward()
        own = [p.grad for n, p in module.named_parameters() if n.startswith("streams")]
        found[dueling, rescale] = values.detach(), x.grad, own
    for (values, gradient, own), (same, scaled, others) in (
        (found[True, False], found[True, True]),
        (found[False, False], found[False, True]),
    ):
        assert torch.equal(values, same)
        assert all(torch.equal(a, b) for a, b in zip(own, others, strict=True))
        square = 0.5 if same is found[True, True][0] else 1.0
        torch.testing.assert_close(scaled.square().sum(), square * gradient.square().sum())
        torch.testing.assert_close(scaled, square**0.5 * gradient)


@torch.no_grad()
def test_without_dueling_the_outputs_are_those_of_one_stream():
    streams, x = Streams(F, 7, A, outputs=3), features().x
    hidden = torch.relu(x @ streams.hidden.weight.T + streams.hidden.bias)
    expected = hidden @ streams.advantage.weight.T + streams.advantage.bias
    torch.testing.assert_close(streams(x), expected.view(T, B, 3, A))


@pytest.mark.parametrize("count", [1, 4, 200])
def test_quantiles_lie_at_the_middle_of_equal_parts(count):
    """(2 i - 1) / (2 N) for i = 1..N."""
    values = Quantile(F, 7, A, quantiles=count)(features(), samples=3)
    assert values.values.shape == (T, B, count, A)
    expected = torch.tensor([(2 * i - 1) / (2 * count) for i in range(1, count + 1)])
    torch.testing.assert_close(values.fractions, expected.expand(T, B, count))


def test_probabilities_are_over_an_even_support():
    module = make("categorical")
    values = module(features())
    assert values.logits.shape == (T, B, 11, A)
    torch.testing.assert_close(values.support, torch.tensor([-2 + 0.5 * i for i in range(11)]))
    torch.testing.assert_close(values.mean(), (values.logits.softmax(2) * values.support[:, None]).sum(2))


@torch.no_grad()
def test_dueling_probabilities_are_combined_before_the_softmax():
    """The mean over actions of the logits of an atom is the value stream's."""
    module = make("categorical", dueling=True)
    logits = module(features()).logits
    torch.testing.assert_close(logits.mean(-1), state_value(module.streams, features().x))


@pytest.mark.parametrize("name", ["quantile", "categorical"])
def test_fractions_and_support_are_not_rounded_with_the_weights(name):
    """A copy of a network that acts in bfloat16 has rounded parameters and buffers."""
    module = make(name)
    rounded = copy.deepcopy(module).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        told, exact = rounded(features()), module(features())
    attribute = "fractions" if name == "quantile" else "support"
    assert torch.equal(getattr(told, attribute), getattr(exact, attribute))
    assert told.mean().dtype == torch.float32
    assert (told.mean() - exact.mean()).abs().max() < 0.1


@pytest.mark.parametrize(("changes", "message"), [({"atoms": 1}, "atoms is 1"), ({"low": 3.0}, "lowest_value is 3.0")])
def test_refuses_a_support_that_is_none(changes, message):
    with pytest.raises(UserError, match=message):
        Categorical(F, 7, A, **{"atoms": 5, "low": -1.0, "high": 1.0} | changes)


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_noise_is_in_every_layer_of_the_streams_or_in_none(name, dueling):
    quiet, noisy = (make(name, dueling=dueling, noise=noise).streams for noise in (0.0, 0.4))
    assert not any(isinstance(m, NoisyLinear) for m in quiet.modules())
    assert not any(isinstance(m, nn.Linear) for m in noisy.modules())
    layers = {name: m for name, m in noisy.named_modules() if isinstance(m, NoisyLinear)}
    assert set(layers) == ({"hidden", "advantage", "value"} if dueling else {"hidden", "advantage"})
    assert {name: m.blocks for name, m in layers.items() if m.blocks > 1} == ({"hidden": 2} if dueling else {})
    for layer in layers.values():
        torch.testing.assert_close(layer.bias_sigma[0].item(), 0.4 / layer.in_features**0.5)


@torch.no_grad()
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_the_generator_decides_the_noise_of_every_layer(name, dueling):
    module = make(name, dueling=dueling, noise=0.5)
    before = torch.random.get_rng_state()
    one, two, other = (module(features(), generator=torch.Generator().manual_seed(s)).mean() for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    module.eval()
    quiet = module.streams(features().x)
    assert torch.equal(quiet, module.streams(features().x, torch.Generator().manual_seed(1)))


RISK = Risk("cvar", 0.2)


@torch.no_grad()
def test_preferences_under_risk_are_means_at_distorted_fractions_and_learning_is_unaffected():
    averse, neutral = head(risk=RISK), head()
    drawn, told, plain = [], [], []
    for module in (averse, neutral):
        one, two = (torch.Generator().manual_seed(3) for _ in range(2))
        values = module(features(), 5, one)
        drawn.append(values.fractions)
        told.append(module.preferences(features(), 5, two))
        plain.append(values.mean())
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(told[1], plain[1])
    torch.testing.assert_close(told[0], averse.at(features(), 0.2 * drawn[0]).mean())
    assert not torch.allclose(told[0], plain[0])


@torch.no_grad()
def test_aversion_to_risk_prefers_the_safe_action():
    """A head made to value action 0 at 1 for sure, and action 1 at 4 tau: 2 on average, 0.4 in the worst fifth."""
    module = ImplicitQuantile(1, 2, 2, samples=4000, cosines=4, risk=RISK)

    class Line(nn.Module):
        def forward(self, fractions):
            return fractions.unsqueeze(-1)

    class Stream(nn.Module):
        def forward(self, x, generator=None):
            return torch.cat([torch.ones_like(x), 4 * x], dim=-1)

    module.embedding, module.streams = Line(), Stream()
    seen = Features(torch.ones(1, 1, 1))
    told = module.preferences(seen, generator=torch.Generator().manual_seed(0))[0, 0]
    assert told.tolist() == pytest.approx([1.0, 0.4], abs=0.02)
    assert module(seen, generator=torch.Generator().manual_seed(0)).mean()[0, 0].tolist() == pytest.approx(
        [1, 2], abs=0.1
    )


def test_risk_needs_fractions_that_the_head_draws():
    with pytest.raises(UserError, match=r"risk is 'cvar'.*before the memory"):
        head(embed=False, risk=RISK)
    assert head(risk=replace(RISK, level=1.0)).risk == Risk("cvar", 1.0)
