"""Cores: one unroll of T rows against T unrolls of one, resets against separate sequences, and each mode's twin."""

import pytest
import torch
from tests.nn.small import HIDDEN, SAMPLES, SIZE, assert_trees_close, gradients, make_core

from retorq.nn import cores
from retorq.nn.cores import LSTM, Cosines, Features, QuantileLSTM

T, B = 6, 2
MODES = ["none", "after", "outer", "inner", "separate"]


class Table:
    """Stands in for ``torch.rand``: row t of the stream always gets row t of one table of fractions."""

    def __init__(self, rows=T, columns=B, samples=SAMPLES):
        self.values = torch.rand(rows, columns, samples, generator=torch.Generator().manual_seed(7))
        self.row, self.columns = 0, slice(None)

    def at(self, row, columns=slice(None)):
        self.row, self.columns = row, columns

    def __call__(self, rows, columns, samples, device=None, generator=None):
        drawn = self.values[self.row : self.row + rows, self.columns]
        assert drawn.shape == (rows, columns, samples)
        self.row += rows
        return drawn


@pytest.fixture
def table(monkeypatch):
    fractions = Table()
    monkeypatch.setattr(cores.torch, "rand", fractions)
    return fractions


def build(kind, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        core = make_core(kind)
        x = torch.randn(T, B, SIZE)
        state = {name: torch.empty(value.shape).uniform_() for name, value in core.initial_state(B).items()}
    return core, x, state


def flags(*pairs):
    first = torch.zeros(T, B, dtype=torch.bool)
    for row, column in pairs:
        first[row, column] = True
    return first


def columnwise(state, column):
    return {name: value[column : column + 1] for name, value in state.items()}


@pytest.mark.parametrize("kind", MODES)
def test_one_unroll_equals_one_row_at_a_time(kind, table):
    """Not so for ``outer``, whose samples meet when an unroll ends: see the next test."""
    core, x, state = build(kind)
    first = flags((2, 0), (0, 1), (5, 1))
    whole, end = core(x, first, state)
    table.at(0)
    rows = []
    for t in range(T):
        features, state = core(x[t : t + 1], first[t : t + 1], state)
        rows.append(features)
    joined = rows[0]
    for more in rows[1:]:
        joined = joined.join(more)
    if kind == "outer":
        torch.testing.assert_close(whole.x[0], joined.x[0])
        assert not torch.allclose(whole.x[1], joined.x[1], atol=1e-4)
        return
    torch.testing.assert_close(whole.x, joined.x)
    assert_trees_close(end, state)
    if whole.fractions is not None:
        torch.testing.assert_close(whole.fractions, joined.fractions)


def test_outer_one_row_at_a_time_is_inner(table):
    """Merging at the end of every one-row unroll is merging at every row."""
    outer, x, state = build("outer")
    inner = make_core("inner")
    inner.load_state_dict(outer.state_dict())
    first = flags((3, 1))
    expected, end = inner(x, first, state)
    table.at(0)
    for t in range(T):
        features, state = outer(x[t : t + 1], first[t : t + 1], state)
        torch.testing.assert_close(features.x[0], expected.x[t])
    assert_trees_close(state, end)


@pytest.mark.parametrize("kind", ["after", "outer", "inner", "separate"])
@pytest.mark.parametrize("cut", [1, 3, T - 1])
def test_a_reset_equals_two_separate_sequences(kind, cut, table):
    """Values, state and gradient, for a column that resets at ``cut`` beside one that does not."""
    core, x, start = build(kind)
    slope = torch.randn(64, generator=torch.Generator().manual_seed(9))

    def scalar(features, state):
        parts = [features.x.flatten(0, 1).flatten(1), *(v.flatten(1) for v in state.values())]
        return sum((part * slope[: part.shape[1]]).sum() for part in parts)

    whole_x, whole_start = x.clone().requires_grad_(), {k: v.clone().requires_grad_() for k, v in start.items()}
    whole, end = core(whole_x, flags((cut, 0)), whole_start)
    scalar(whole, columnwise(end, 0)).backward()
    expected, grads = whole, gradients(core)

    core.zero_grad()
    parts_x, parts_start = x.clone().requires_grad_(), {k: v.clone().requires_grad_() for k, v in start.items()}
    fresh = core.initial_state(1)
    none, begins = torch.zeros(T, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    table.at(0, slice(0, 1))
    before, _ = core(parts_x[:cut, :1], none[:cut], columnwise(parts_start, 0))
    after, after_end = core(parts_x[cut:, :1], torch.cat([begins, none[cut + 1 :]]), fresh)
    table.at(0, slice(1, 2))
    beside, _ = core(parts_x[:, 1:], none, columnwise(parts_start, 1))

    torch.testing.assert_close(expected.x[:, :1], before.join(after).x)
    torch.testing.assert_close(expected.x[:, 1:], beside.x)
    assert_trees_close(columnwise(end, 0), after_end)
    (scalar(before, {}) + scalar(after, after_end) + scalar(beside, {})).backward()
    assert_trees_close(grads, gradients(core), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole_x.grad, parts_x.grad, rtol=1e-4, atol=1e-5)
    for name in ("h", "c"):
        torch.testing.assert_close(whole_start[name].grad, parts_start[name].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["after", "outer", "inner", "separate"])
def test_nothing_before_a_reset_reaches_what_follows(kind, table):
    core, x, start = build(kind)
    x, start = x.requires_grad_(), {k: v.requires_grad_() for k, v in start.items()}
    features, end = core(x, flags((3, 0)), start)
    (features.x[3:, 0].sum() + sum(v[0].sum() for v in end.values())).backward()
    assert x.grad[:3].abs().sum() == 0
    assert x.grad[3:, 0].abs().sum(-1).min() > 0
    assert all(v.grad is None or v.grad.abs().sum() == 0 for v in start.values())


def twin_cell(core, x, h, c):
    """One sample, one row, as a textbook writes the LSTM; gates in our order."""
    i, f, o, g = (core.weight_input @ x + core.weight_hidden @ h + core.bias).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("kind", ["outer", "inner", "separate"])
def test_each_mode_equals_a_loop_over_its_samples(kind, table):
    core, x, start = build(kind)
    first = flags((2, 0), (4, 1))
    with torch.no_grad():
        features, end = core(x, first, start)
        for b in range(B):
            h = start["h"][b] if kind == "separate" else start["h"][b].repeat(SAMPLES, 1)
            c = start["c"][b] if kind == "separate" else start["c"][b].repeat(SAMPLES, 1)
            tied = start.get("fractions", torch.zeros(B, 0))[b]
            for t in range(T):
                if first[t, b]:
                    h, c, tied = torch.zeros_like(h), torch.zeros_like(c), table.values[t, b]
                taus = tied if kind == "separate" else table.values[t, b]
                steps = [twin_cell(core.lstm, x[t, b] * core.embedding(taus[n]), h[n], c[n]) for n in range(SAMPLES)]
                h, c = (torch.stack(v) for v in zip(*steps, strict=True))
                torch.testing.assert_close(features.x[t, b], h)
                torch.testing.assert_close(features.fractions[t, b], taus)
                if kind == "inner":
                    h, c = (v.mean(0).repeat(SAMPLES, 1) for v in (h, c))
            if kind == "separate":
                torch.testing.assert_close(end["fractions"][b], tied)
            else:
                h, c = h.mean(0), c.mean(0)
            torch.testing.assert_close(end["h"][b], h)
            torch.testing.assert_close(end["c"][b], c)


@pytest.mark.parametrize(("kind", "shape"), [("outer", (B, HIDDEN)), ("inner", (B, HIDDEN)), ("after", (B, HIDDEN))])
def test_initial_state_is_zero(kind, shape):
    state = make_core(kind).initial_state(B)
    assert {name: (value.shape, float(value.abs().sum())) for name, value in state.items()} == {
        "h": (shape, 0.0),
        "c": (shape, 0.0),
    }


def test_separate_fractions_hold_through_an_episode_and_change_with_it():
    core = QuantileLSTM(SIZE, HIDDEN, SAMPLES, "separate")
    generator = torch.Generator().manual_seed(0)
    first = flags((0, 0), (0, 1), (3, 1))
    features, state = core(torch.zeros(T, B, SIZE), first, core.initial_state(B), generator)
    taus = features.fractions
    assert (taus[:, 0] == taus[0, 0]).all()
    assert (taus[:3, 1] == taus[0, 1]).all()
    assert (taus[3:, 1] == taus[3, 1]).all()
    assert len(torch.stack([taus[0, 0], taus[0, 1], taus[3, 1]]).unique()) == 3 * SAMPLES
    torch.testing.assert_close(state["fractions"], taus[-1], rtol=0, atol=0)


def test_other_modes_draw_fresh_fractions_per_row_column_and_sample():
    core = QuantileLSTM(SIZE, HIDDEN, SAMPLES, "inner")
    generator = torch.Generator().manual_seed(0)
    once, _ = core(torch.zeros(T, B, SIZE), flags(), core.initial_state(B), generator)
    again, _ = core(torch.zeros(T, B, SIZE), flags(), core.initial_state(B), generator)
    assert len(torch.cat([once.fractions, again.fractions]).unique()) == 2 * T * B * SAMPLES


@pytest.mark.parametrize("cosines", [64, 3])
def test_cosine_features_count_from_one(cosines):
    embedding = Cosines(cosines, cosines)
    with torch.no_grad():
        embedding.linear.weight.copy_(torch.eye(cosines))
        embedding.linear.bias.zero_()
    taus = torch.tensor([[0.0, 0.3], [0.77, 1.0]], dtype=torch.float64)
    expected = torch.stack([torch.cos(torch.pi * i * taus) for i in range(1, cosines + 1)], -1).clamp(min=0)
    torch.testing.assert_close(embedding(taus.float()), expected.float(), rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", ["after", "outer", "inner", "separate"])
def test_bfloat16_is_close_to_float32(kind, table):
    core, x, state = build(kind)
    exact, _ = core(x, flags((2, 0)), state)
    table.at(0)
    with torch.autocast("cpu", torch.bfloat16):
        half, end = core(x, flags((2, 0)), state)
    assert half.x.dtype == end["c"].dtype == torch.float32
    error = (half.x - exact.x).norm() / exact.x.norm()
    assert 0 < error < 0.02


def test_features_rows_take_and_join_move_fractions_along():
    x = torch.arange(12.0).reshape(3, 2, 2, 1)
    features = Features(x, x[..., 0] / 12)
    taken = features.take(torch.tensor([[2, 0], [1, 1]]))
    assert taken.x[..., 0, 0].tolist() == [[8, 2], [4, 6]]
    torch.testing.assert_close(taken.fractions, taken.x[..., 0] / 12)
    joined = features.rows(0, 1).join(features.rows(1, None))
    torch.testing.assert_close(joined.x, x)
    torch.testing.assert_close(joined.fractions, features.fractions)
    assert not Features(x.requires_grad_()).detach().x.requires_grad


def test_an_empty_core_keeps_no_state():
    core = make_core("none")
    assert core.initial_state(3) == {}
    assert not core.recurrent
    assert LSTM.recurrent
