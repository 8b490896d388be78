"""Which column gets which state."""

import torch

from retorq.ops.states import choose


def test_each_column_has_the_state_that_was_chosen():
    torch.manual_seed(0)
    one, other = ({"h": torch.rand(3, 4), "fractions": torch.rand(3), "c": torch.rand(3, 2, 4)} for _ in range(2))
    chosen = choose(torch.tensor([True, False, True]), one | {"more": torch.rand(3)}, other)
    assert chosen.keys() == other.keys()
    for name, value in chosen.items():
        assert torch.equal(value, torch.stack([one[name][0], other[name][1], one[name][2]]))
