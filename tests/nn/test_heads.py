"""Heads: the dueling identity, fresh fractions for every role, and what the head does with them."""

import pytest
import torch

from retorq.nn.cores import Features
from retorq.nn.heads import ImplicitQuantile, Scalar, Streams

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
    streams = Streams(F, 7, A, dueling=False)
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
