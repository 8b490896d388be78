"""Generators come back exactly on the same kind of device, and with new numbers on another."""

import torch

from retorq.ops.generators import put_back

ELSEWHERE = torch.arange(16, dtype=torch.uint8)  # as long as a state on a GPU


def test_the_same_kind_goes_on():
    generator, other = torch.Generator().manual_seed(3), torch.Generator()
    torch.rand(5, generator=generator)
    assert put_back(other, generator.get_state())
    assert torch.equal(torch.rand(9, generator=other), torch.rand(9, generator=generator))


def test_another_kind_is_seeded_by_what_was_saved():
    drawn = []
    for state in (ELSEWHERE, ELSEWHERE, ELSEWHERE + 1):
        generator = torch.Generator().manual_seed(len(drawn))
        assert not put_back(generator, state)
        drawn.append(torch.rand(9, generator=generator))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
