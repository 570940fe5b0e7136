"""Every space becomes one flat vector of features, in a known order."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from optix_fast.learners.tensors import to_tensors
from optix_fast.networks import ObservationEncoder
from optix_fast.networks.encoders import needs_encoder
from optix_fast.pipelines.rows import allocate, write


def encode(space, *observations):
    """A batch of observations, stored as a pipeline does, encoded."""
    batch = allocate(space, (len(observations),))
    for i, observation in enumerate(observations):
        write(batch, i, observation)
    encoder = ObservationEncoder(space)
    features = encoder(to_tensors(batch, torch.device("cpu")))
    assert features.dtype == torch.float32
    assert features.shape == (len(observations), encoder.features)
    return features.tolist()


@pytest.mark.parametrize(
    ("space", "observation", "features"),
    [
        (spaces.Box(-9, 9, (3,), np.float32), [1.5, -2.0, 3.0], [1.5, -2.0, 3.0]),
        (spaces.Box(-9, 9, (2, 2), np.float64), [[1, 2], [3, 4]], [1.0, 2.0, 3.0, 4.0]),
        (spaces.Box(-9, 9, (), np.float32), 2.5, [2.5]),
        (spaces.Box(-9, 9, (2,), np.int64), [-3, 4], [-3.0, 4.0]),
        (spaces.Box(0, 255, (1, 3), np.uint8), [[0, 51, 255]], [0.0, pytest.approx(0.2), 1.0]),
        (spaces.Discrete(3), 2, [0.0, 0.0, 1.0]),
        (spaces.Discrete(3, start=-1), -1, [1.0, 0.0, 0.0]),
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0.0, 1.0, 1.0, 0.0, 0.0]),
        (spaces.MultiDiscrete([2, 2], start=[5, 0]), [5, 1], [1.0, 0.0, 0.0, 1.0]),
        (spaces.MultiDiscrete([[2], [3]]), [[0], [2]], [1.0, 0.0, 0.0, 0.0, 1.0]),
        (spaces.MultiBinary(3), [1, 0, 1], [1.0, 0.0, 1.0]),
    ],
)
def test_leaf_spaces_have_these_features(space, observation, features):
    assert encode(space, observation, observation) == [features, features]


def test_parts_lie_side_by_side_dicts_in_key_order_and_masks_are_left_out():
    space = spaces.Dict(
        {
            "z": spaces.Discrete(2),
            "action_mask": spaces.MultiBinary(4),
            "a": spaces.Tuple((spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(2))),
        }
    )
    observation = {"z": 1, "action_mask": [1, 1, 0, 1], "a": ([7.0, 8.0], 0)}
    assert encode(space, observation) == [[7.0, 8.0, 1.0, 0.0, 0.0, 1.0]]
    assert ObservationEncoder(space).features == 6


def test_batch_rows_keep_their_order():
    assert encode(spaces.Discrete(3), 0, 2, 1) == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("space", [spaces.Text(4), spaces.Dict({"x": spaces.Sequence(spaces.Discrete(2))})])
def test_other_spaces_are_refused(space):
    with pytest.raises(TypeError, match="observation space must be built from Box"):
        ObservationEncoder(space)


@pytest.mark.parametrize(
    ("space", "needed"),
    [
        (spaces.Box(-1, 1, (4,), np.float32), False),
        (spaces.Box(-1, 1, (4,), np.float64), False),
        (spaces.Box(-1, 1, (2, 2), np.float32), True),
        (spaces.Box(-1, 1, (), np.float32), True),
        (spaces.Box(0, 255, (4,), np.uint8), True),
        (spaces.Box(0, 9, (4,), np.int64), True),
        (spaces.Discrete(4), True),
        (spaces.Dict({"x": spaces.Discrete(4)}), True),
    ],
)
def test_only_flat_float_boxes_do_without_an_encoder(space, needed):
    assert needs_encoder(space) is needed


def test_encoder_has_no_parameters_and_passes_gradients():
    encoder = ObservationEncoder(gym.spaces.Box(-1, 1, (2, 2), np.float32))
    assert not list(encoder.parameters())
    x = torch.ones(1, 2, 2, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad.tolist() == [[[1.0, 1.0], [1.0, 1.0]]]
