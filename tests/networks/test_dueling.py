"""The dueling network."""

from __future__ import annotations

import pytest
import torch

from optix_fast.networks import DuelingQNetwork


def test_value_plus_advantages_less_their_mean() -> None:
    network = DuelingQNetwork(1, 3, hidden_sizes=(2,))
    with torch.no_grad():
        network.trunk[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network.value.weight.copy_(torch.tensor([[2.0, 5.0]]))
        network.advantage.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]))
    # At 2 the hidden layer is (2, 0): V = 4, A = (2, 4, 12) with mean 6.
    assert network(torch.tensor([[2.0]])).tolist() == [[0.0, 2.0, 10.0]]


def test_global_random_state_is_not_touched_and_a_generator_repeats() -> None:
    before = torch.random.get_rng_state()
    one, two = (DuelingQNetwork(4, 2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="hidden_sizes"):
        DuelingQNetwork(4, 2, hidden_sizes=())
    with pytest.raises(ValueError, match="activation"):
        DuelingQNetwork(4, 2, activation="sine")
