"""n-step returns: against the paper's sums, over ends of games, and R2D2's targets in rescaled units."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retorq.ops.rescale import rescale, unrescale
from retorq.ops.returns import n_step


def twin(reward, discount, last, n):
    """One column in paper notation; None where a row has no transition."""
    rows, out = len(reward), []
    for t in range(rows):
        m = 0
        while m < n and t + m < rows - 1 and not last[t + m]:
            m += 1
        if m == 0:
            out.append(None)
            continue
        total = sum(np.prod(discount[t : t + k]) * reward[t + k] for k in range(m))
        out.append((total, np.prod(discount[t : t + m]), t + m))
    return out


def window(seed, rows, columns):
    generator = np.random.default_rng(seed)
    reward = generator.normal(size=(rows, columns))
    discount = 0.9 * (generator.random((rows, columns)) > 0.2)
    last = generator.random((rows, columns)) < 0.25
    return reward, discount, last


def tensors(*arrays):
    return tuple(torch.from_numpy(np.array(a)) for a in arrays)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 3), st.integers(1, 10))
def test_equals_the_sums_of_the_paper(seed, rows, columns, n):
    reward, discount, last = window(seed, rows, columns)
    total, product, index = n_step(*tensors(reward, discount, last), n)
    assert index.dtype == torch.int64
    for b in range(columns):
        for t, expected in enumerate(twin(reward[:, b], discount[:, b], last[:, b], n)):
            got = (total[t, b].item(), product[t, b].item(), index[t, b].item())
            assert got == ((0.0, 0.0, t) if expected is None else pytest.approx(expected))


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 7))
def test_nothing_after_a_last_row_reaches_before_it(seed, n, end):
    reward, discount, last = window(seed, 9, 1)
    last[end] = True
    value = np.random.default_rng(seed).normal(size=(9, 1))

    def targets(reward, discount, last, value):
        total, product, index = n_step(*tensors(reward, discount, last), n)
        return (total + product * torch.from_numpy(value).gather(0, index))[: end + 1]

    other = window(seed + 1, 9, 1)
    changed = [np.concatenate([a[:end], b[end:]]) for a, b in zip((reward, discount, last), other, strict=True)]
    changed[2][end] = True
    changed_value = np.concatenate([value[: end + 1], value[end + 1 :] + 7])
    torch.testing.assert_close(targets(reward, discount, last, value), targets(*changed, changed_value), rtol=0, atol=0)


def test_rows_without_a_transition_are_finite_and_never_read():
    reward, discount, last = tensors(np.ones((5, 1)), np.full((5, 1), 0.5), np.zeros((5, 1), bool))
    last[2] = True
    reward[[2, 4]], discount[[2, 4]] = torch.nan, torch.nan
    total, product, index = n_step(reward, discount, last, 3)
    assert total[:, 0].tolist() == [1.5, 1, 0, 1, 0]
    assert product[:, 0].tolist() == [0.25, 0.5, 0, 0.5, 0]
    assert index[:, 0].tolist() == [2, 2, 2, 4, 4]


def test_truncation_bootstraps_and_termination_does_not():
    reward = torch.ones(4, 2)
    discount = torch.full((4, 2), 0.5)
    discount[1, 1] = 0  # the second column terminates on its way into the last row
    last = torch.tensor([False, False, True, False]).unsqueeze(1).expand(4, 2)
    total, product, index = n_step(reward, discount, last, 3)
    assert total[0].tolist() == [1.5, 1.5]
    assert product[0].tolist() == [0.25, 0]
    assert index[0].tolist() == [2, 2]


def test_a_lost_life_cuts_the_return_but_not_the_game():
    reward, discount = torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([0.5, 0, 0.5, 0.5, 0.5])
    total, product, index = n_step(reward[:, None], discount[:, None], torch.zeros(5, 1, dtype=torch.bool), 3)
    assert total[:, 0].tolist() == [2, 2, 8, 8, 0]
    assert product[:, 0].tolist() == [0, 0, 0.25, 0.5, 0]
    assert index[:, 0].tolist() == [3, 4, 4, 4, 4]


def test_a_number_worked_by_hand():
    reward = torch.tensor([1.0, 0, 2, 9, 9]).unsqueeze(1)
    total, product, index = n_step(reward, torch.full((5, 1), 0.99), torch.zeros(5, 1, dtype=torch.bool), 3)
    assert total[0].item() == pytest.approx(2.9602)
    assert product[0].item() == pytest.approx(0.970299)
    assert index[0].item() == 3


@pytest.mark.parametrize(
    ("fourth_discount", "deltas", "priority"),
    [
        (0.9, [1.03332, 0.844808, -1.442948, 0.460276, -1.073762, 0.103], 1.381288),
        (0.0, [1.03332, 0.211664, -1.549762, -0.515214, -1.073762, 0.103], 1.469565),
    ],
)
def test_r2d2_temporal_differences(fourth_discount, deltas, priority):
    online = torch.tensor([(0, 1), (0.5, 0.2), (1, 2), (0.1, 0.3), (2, 1), (0.7, 0.9), (1.5, 1.4)], dtype=torch.float64)
    target = online.flip(0)
    action = torch.tensor([0, 1, 1, 0, 0, 1])
    reward = torch.tensor([1, 0, 2, -1, 0, 3, 0], dtype=torch.float64).unsqueeze(1)
    discount = torch.full((7, 1), 0.9, dtype=torch.float64)
    discount[3] = fourth_discount
    total, product, index = (x[:6, 0] for x in n_step(reward, discount, torch.zeros(7, 1, dtype=torch.bool), 3))
    bootstrap = target[index, online.argmax(1)[index]]
    delta = rescale(total + product * unrescale(bootstrap, 1e-3), 1e-3) - online[torch.arange(6), action]
    assert delta.tolist() == pytest.approx(deltas, abs=1e-6)
    assert (0.9 * delta.abs().max() + 0.1 * delta.abs().mean()).item() == pytest.approx(priority, abs=1e-6)


def test_refuses_what_makes_no_sense():
    rows = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="n is 0"):
        n_step(rows, rows, rows.bool(), 0)
    with pytest.raises(ValueError, match="shapes differ"):
        n_step(rows, rows[:2], rows.bool(), 1)
