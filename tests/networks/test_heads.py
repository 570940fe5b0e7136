"""Actions are drawn with the probabilities that the network means, and fit the environment's space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from optix_fast.networks import CategoricalHead, GreedyHead, MultiDiscreteHead, NormalHead
from optix_fast.networks.heads import DeterministicHead, component_sizes
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

# --- CategoricalHead ----------------------------------------------------------------------------


class Given:
    """A stream whose uniform numbers are given."""

    def __init__(self, *uniforms: float) -> None:
        self.uniforms = uniforms

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self.uniforms, np.float32).reshape(shape)


def logits(*probabilities: float, rows: int = 1) -> torch.Tensor:
    return torch.tensor([probabilities]).log().expand(rows, -1)


@pytest.mark.parametrize(
    ("uniform", "action"), [(0.0, 0), (0.249, 0), (0.251, 1), (0.749, 1), (0.751, 2), (1 - 2**-24, 2)]
)
def test_uniform_number_chooses_by_the_cumulative_distribution(uniform, action):
    draw = CategoricalHead().draw(logits(0.25, 0.5, 0.25), Given(uniform))
    assert draw.actions.tolist() == draw.raw.tolist() == [action]
    assert draw.raw.dtype == np.int64
    assert draw.log_probs.dtype == np.float32
    assert draw.log_probs[0] == pytest.approx(math.log([0.25, 0.5, 0.25][action]), rel=1e-6)


@pytest.mark.parametrize("uniform", [0.0, 2**-24, 0.5, 1 - 2**-23, 1 - 2**-24])
@pytest.mark.parametrize(
    "probabilities", [(0.0, 1.0, 0.0), (0.0, 0.3, 0.0, 0.7, 0.0), (0.0, 0.1, 0.1, 0.1, 0.7, 0.0, 0.0)]
)
def test_action_of_probability_zero_is_never_drawn(uniform, probabilities):
    draw = CategoricalHead().draw(logits(*probabilities), Given(uniform))
    assert probabilities[draw.raw[0]] > 0
    assert np.isfinite(draw.log_probs).all()


def test_masked_actions_are_never_drawn_and_the_others_share_their_probability():
    stream = RandomStream(0)
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]] * 500, np.int8)
    params = torch.tensor([[0.0, 5.0, math.log(3.0), 9.0]]).expand(len(masks), -1)
    draw = CategoricalHead().draw(params, stream, action_masks=masks)
    assert masks[np.arange(len(masks)), draw.raw].all()
    probability = np.exp(draw.log_probs[0::4])
    np.testing.assert_allclose(probability, np.where(draw.raw[0::4] == 0, 0.25, 0.75), rtol=1e-5)
    np.testing.assert_allclose(draw.log_probs[1::4], 0.0)


def test_components_are_drawn_each_from_its_own_logits():
    head = MultiDiscreteHead((2, 3))
    head.bind(spaces.MultiDiscrete([2, 3], start=[10, 0]))
    params = torch.log(torch.tensor([[0.25, 0.75, 0.5, 0.25, 0.25]]))
    draw = head.draw(params, RandomStream(0), deterministic=True)
    assert draw.raw.tolist() == [[1, 0]]
    assert draw.actions.tolist() == [[11, 0]]
    assert draw.log_probs[0] == pytest.approx(math.log(0.75 * 0.5), rel=1e-6)
    assert head.raw_of(draw.actions).tolist() == [[1, 0]]
    many = head.draw(params.expand(20_000, -1), RandomStream(3)).raw
    joint = np.bincount(many[:, 0] * 3 + many[:, 1], minlength=6) / 20_000
    expected = np.outer([0.25, 0.75], [0.5, 0.25, 0.25]).reshape(-1)
    np.testing.assert_allclose(joint, expected, atol=0.015)  # over four standard errors


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[10, 0], [0, -1]]), [[[11, 2], [0, -1]]]),
        (spaces.MultiDiscrete([2, 3, 2, 2], dtype=np.int32), [[1, 2, 0, 0]]),
    ],
)
def test_actions_have_the_shape_and_kind_of_the_space(space, actions):
    head = MultiDiscreteHead(component_sizes(space))
    head.bind(space)
    logits = torch.tensor([[0.0, 1, 0, 0, 1, 1, 0, 1, 0]])
    draw = head.draw(logits, RandomStream(0), deterministic=True)
    assert draw.actions.tolist() == actions
    assert space.contains(draw.actions[0]) and draw.actions.dtype == space.dtype
    assert draw.raw.tolist() == head.raw_of(draw.actions).tolist() == [[1, 2, 0, 0]]


def test_bits_are_components_of_two():
    space = spaces.MultiBinary((2, 2))
    head = MultiDiscreteHead(component_sizes(space))
    head.bind(space)
    masks = np.array([[1, 1, 1, 1, 1, 1, 0, 1]], np.bool_)
    draw = head.draw(
        torch.tensor([[0.0, 1, 1, 0, 0, 1, 1, 0]]), RandomStream(0), deterministic=True, action_masks=masks
    )
    assert draw.actions.tolist() == [[[1, 0], [1, 1]]]
    assert draw.actions.dtype == np.int8 and space.contains(draw.actions[0])
    assert draw.log_probs[0] == pytest.approx(-3 * math.log(1 + math.exp(-1)), rel=1e-5)


def test_multi_discrete_head_refuses_what_does_not_fit():
    head = MultiDiscreteHead((2, 3))
    for space in (spaces.MultiDiscrete([2, 4]), spaces.MultiBinary(2), spaces.Discrete(6)):
        with pytest.raises(ValueError, match=r"the policy needs a MultiDiscrete\(\[2, 3\]\) space"):
            head.bind(space)
    with pytest.raises(ValueError, match=r"actor must return logits \[B, 5\], got \[4, 6\]"):
        head.params(torch.zeros(4, 6))
    head.bind(spaces.MultiDiscrete([2, 3]))
    with pytest.raises(ValueError, match="it cannot act in"):
        head.bind(spaces.MultiDiscrete([2, 3], start=[1, 1]))


def test_row_that_allows_nothing_is_refused():
    with pytest.raises(ValueError, match="action_masks: a row allows no action"):
        CategoricalHead().draw(torch.zeros(2, 2), RandomStream(0), action_masks=np.array([[1, 0], [0, 0]]))


def test_frequencies_match_the_softmax():
    params = torch.tensor([[0.5, -1.0, 2.0, 0.0, -8.0]])
    expected = torch.softmax(params, dim=-1).numpy()[0] * 100_000
    draw = CategoricalHead().draw(params.expand(100_000, -1), RandomStream(7))
    observed = np.bincount(draw.raw, minlength=5)
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 18.47  # 99.9 % quantile at 4 degrees of freedom
    assert observed.sum() == 100_000


def test_log_probs_are_those_of_torch():
    params = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    draw = CategoricalHead().draw(params, RandomStream(1))
    expected = torch.distributions.Categorical(logits=params).log_prob(torch.from_numpy(draw.raw))
    np.testing.assert_allclose(draw.log_probs, expected.numpy(), atol=1e-6)


def test_deterministic_action_is_the_most_probable_allowed_one_and_draws_no_numbers():
    stream = RandomStream(3)
    before = stream.state_dict()
    params = torch.tensor([[1.0, 3.0, 2.0], [4.0, 3.0, 2.0]])
    assert CategoricalHead().draw(params, stream, True).actions.tolist() == [1, 0]
    masks = np.array([[True, False, True], [True, True, True]])
    assert CategoricalHead().draw(params, stream, True, masks).actions.tolist() == [2, 0]
    assert stream.state_dict() == before


def test_actions_begin_where_the_space_begins():
    head = CategoricalHead()
    head.bind(spaces.Discrete(3, start=5))
    draw = head.draw(logits(0.0, 0.0, 1.0), RandomStream(0))
    assert draw.actions.tolist() == [7]
    assert draw.raw.tolist() == [2]
    assert head.raw_of(np.array([5, 6, 7])).tolist() == [0, 1, 2]


def test_same_stream_gives_the_same_actions():
    params = torch.zeros(20, 4)
    a, b, c = (CategoricalHead().draw(params, RandomStream(seed)).raw.tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_categorical_head_binds_to_one_discrete_space():
    head = CategoricalHead()
    with pytest.raises(ValueError, match="a categorical policy needs a Discrete action space, got Box"):
        head.bind(spaces.Box(-1, 1, (2,)))
    head.bind(spaces.Discrete(3))
    head.bind(spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"bound to Discrete\(3\); it cannot act in Discrete\(4\)"):
        head.bind(spaces.Discrete(4))


def test_outputs_that_are_no_logits_of_the_space_are_refused():
    head = CategoricalHead()
    with pytest.raises(ValueError, match=r"actor must return logits \[B, K\], got \[3\]"):
        head.params(torch.zeros(3))
    head.bind(spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"actor must return logits \[B, 3\], got \[5, 2\]"):
        head.params(torch.zeros(5, 2))
    outputs = torch.zeros(5, 3)
    assert head.params(outputs) is outputs


# --- GreedyHead -----------------------------------------------------------------------------------

VALUES = torch.tensor([[0.5, -1.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    ("explores", "which", "action"), [(0.25, 0.9, 2), (0.249, 0.0, 0), (0.0, 0.26, 1), (0.1, 1 - 2**-24, 3)]
)
def test_a_number_below_epsilon_hands_the_choice_to_the_second_number(explores, which, action):
    draw = GreedyHead(epsilon=0.25).draw(VALUES, Given(explores, which))
    assert draw.actions.tolist() == draw.raw.tolist() == [action]
    assert draw.raw.dtype == np.int64


def test_deterministic_is_the_first_of_the_greatest_and_draws_nothing():
    assert GreedyHead(epsilon=1.0).draw(VALUES, None, deterministic=True).actions.tolist() == [2]


@pytest.mark.parametrize(("explores", "which", "action"), [(0.9, 0.0, 7), (0.0, 0.49, 7), (0.0, 0.5, 8)])
def test_only_allowed_actions_are_chosen_from(explores, which, action):
    head = GreedyHead(epsilon=0.5)
    head.bind(spaces.Discrete(4, start=7))
    draw = head.draw(VALUES, Given(explores, which), action_masks=np.array([[1, 1, 0, 0]], np.int8))
    assert draw.actions.tolist() == [action]
    with pytest.raises(ValueError, match="a row allows no action"):
        head.draw(VALUES, Given(0.9, 0.0), action_masks=np.zeros((1, 4), np.bool_))


def test_explored_actions_are_uniform():
    draw = GreedyHead(epsilon=0.4).draw(VALUES.expand(40_000, -1), RandomStream(0))
    # Standard error below 0.0025.
    share = np.bincount(draw.actions, minlength=4) / 40_000
    np.testing.assert_allclose(share, [0.1, 0.1, 0.7, 0.1], atol=0.01)


# --- NormalHead ---------------------------------------------------------------------------------


def params_of(mean: list[float], log_std: list[float], rows: int = 1) -> torch.Tensor:
    return torch.tensor([[*mean, *log_std]]).expand(rows, -1)


def test_log_probs_are_those_of_the_gaussian_before_squashing():
    head = NormalHead(3)
    params = head.params(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    draw = head.draw(params, RandomStream(1))
    mean, log_std = params.chunk(2, dim=-1)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(torch.from_numpy(draw.raw)).sum(-1)
    np.testing.assert_allclose(draw.log_probs, expected.numpy(), atol=1e-4)
    assert draw.log_probs.dtype == draw.raw.dtype == draw.actions.dtype == np.float32
    assert draw.raw.shape == draw.actions.shape == (40, 3)


def test_samples_have_the_mean_and_deviation_asked_for():
    draw = NormalHead(2).draw(params_of([1.0, -2.0], [math.log(0.5), math.log(2.0)], 50_000), RandomStream(2))
    np.testing.assert_allclose(draw.raw.mean(axis=0), [1.0, -2.0], atol=0.04)  # > 4 standard errors
    np.testing.assert_allclose(draw.raw.std(axis=0), [0.5, 2.0], rtol=0.02)
    assert abs(np.corrcoef(draw.raw.T)[0, 1]) < 0.02


def test_deterministic_action_is_the_mean_and_draws_no_numbers():
    stream = RandomStream(3)
    before = stream.state_dict()
    draw = NormalHead(1).draw(params_of([0.5], [0.0]), stream, True)
    assert draw.raw.tolist() == [[0.5]]
    assert draw.actions[0, 0] == pytest.approx(math.tanh(0.5))
    assert draw.log_probs[0] == pytest.approx(-0.5 * math.log(2 * math.pi))
    assert stream.state_dict() == before


def test_unbound_head_acts_in_minus_one_to_one_or_everywhere():
    raw = np.array([[-50.0], [0.5], [50.0]], np.float32)
    assert NormalHead(1).to_environment(raw).ravel().tolist() == pytest.approx([-1.0, math.tanh(0.5), 1.0])
    assert NormalHead(1, squash=False).to_environment(raw).tolist() == raw.tolist()


def test_squashed_actions_are_scaled_to_the_box_and_unbounded_dimensions_are_not():
    head = NormalHead(4)
    low = np.array([-2.0, 0.0, -np.inf, 0.0], np.float32)
    high = np.array([2.0, 10.0, np.inf, np.inf], np.float32)
    head.bind(spaces.Box(low, high))
    middle = math.tanh(0.5)
    raw = np.array([[0.5] * 4, [-50.0] * 4, [50.0] * 4], np.float32)
    np.testing.assert_allclose(
        head.to_environment(raw),
        [[2 * middle, 5 + 5 * middle, middle, middle], [-2, 0, -1, 0], [2, 10, 1, 1]],
        rtol=1e-6,
    )


def test_unsquashed_actions_are_clipped_to_the_box_but_remembered_as_drawn():
    head = NormalHead(2, squash=False)
    head.bind(spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32)))
    draw = head.draw(params_of([3.0, 300.0], [-5.0, -5.0]), RandomStream(0))
    assert draw.actions[0, 0] == 1.0
    assert draw.actions[0, 1] == draw.raw[0, 1] == pytest.approx(300, abs=0.1)
    assert draw.raw[0, 0] == pytest.approx(3.0, abs=0.1)


def test_actions_have_the_shape_of_the_box():
    head = NormalHead(6)
    head.bind(spaces.Box(-1, 1, (2, 3), np.float32))
    draw = head.draw(params_of([0.0] * 6, [0.0] * 6, 5), RandomStream(0))
    assert draw.actions.shape == (5, 2, 3)
    assert draw.raw.shape == (5, 6)


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("bound", [0.1, 0.3, 1 / 3, 1e-3, 7.7, 1e38])
def test_actions_at_the_edge_lie_inside_a_float64_box(bound, squash):
    box = spaces.Box(-bound, bound, (1,), np.float64)
    head = NormalHead(1, squash)
    head.bind(box)
    for raw in (-1e38, 1e38):
        (action,) = head.to_environment(np.array([[raw]], np.float32))
        assert box.contains(action)
        assert action[0] == pytest.approx(math.copysign(bound, raw), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_as_wide_as_its_dtype_does_not_overflow(dtype):
    limit = float(np.finfo(dtype).max)
    head = NormalHead(1)
    head.bind(spaces.Box(-limit, limit, (1,), dtype))
    assert np.isfinite(head.to_environment(np.array([[0.0], [9.0], [-9.0]], np.float32))).all()


def test_log_std_is_clamped():
    params = NormalHead(2).params(torch.tensor([[0.0, 0.0, -9.0, 9.0]]))
    assert params.tolist() == [[0.0, 0.0, -5.0, 2.0]]


def test_free_log_std_belongs_to_every_row_and_gets_gradients():
    log_std = torch.nn.Parameter(torch.tensor([0.5, -7.0]))
    head = NormalHead(2, log_std=log_std)
    params = head.params(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert params.tolist() == [[1.0, 2.0, 0.5, -5.0], [3.0, 4.0, 0.5, -5.0]]
    params.sum().backward()
    assert log_std.grad.tolist() == [2.0, 0.0]  # none where it is clamped
    head.draw(params, RandomStream(0))


@pytest.mark.parametrize(
    ("log_std", "message"),
    [(None, r"mean ‖ log_std \[B, 4\]"), (torch.zeros(2), r"mean \[B, 2\]")],
)
def test_outputs_of_another_width_are_refused(log_std, message):
    head = NormalHead(2, log_std=log_std)
    for outputs in (torch.zeros(5, 3), torch.zeros(4)):
        with pytest.raises(ValueError, match=f"actor must return {message}, got"):
            head.params(outputs)


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(2), spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-5, 5, (2,), np.int64)],
)
def test_gaussian_needs_a_box_of_floats_of_its_width(space):
    with pytest.raises(ValueError, match="action_dim=2 needs a Box action space of that many floats, got"):
        NormalHead(2).bind(space)


def test_normal_head_binds_to_one_box():
    head = NormalHead(1)
    head.bind(spaces.Box(-1, 1, (1,)))
    head.bind(spaces.Box(-1, 1, (1,)))
    with pytest.raises(ValueError, match="the policy is bound to"):
        head.bind(spaces.Box(-2, 2, (1,)))


def test_gaussian_knows_no_masks_and_cannot_invert_actions():
    head = NormalHead(1)
    with pytest.raises(ValueError, match="masks have no meaning"):
        head.draw(params_of([0.0], [0.0]), RandomStream(0), action_masks=np.ones((1, 2)))
    with pytest.raises(ValueError, match="pre_tanh"):
        head.raw_of(np.zeros((1, 1)))


# --- DeterministicHead --------------------------------------------------------------------------

# Half-widths 2 and 5, centres 0 and 5.
PLANE = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))


def in_the_plane():
    head = DeterministicHead(2)
    head.bind(PLANE)
    return head


@pytest.mark.parametrize("deterministic", [False, True])
def test_actions_are_tanh_of_the_outputs_scaled_to_the_box_and_nothing_is_drawn(deterministic):
    stream = RandomStream(0)
    before = stream.state_dict()
    outputs = torch.tensor([[0.0, 0.0], [0.5, -0.5], [50.0, -50.0]])
    draw = in_the_plane().draw(outputs, stream, deterministic)
    # tanh(½) = 0.462117.
    expected = [[0.0, 5.0], [2 * 0.462117, 5 - 5 * 0.462117], [2.0, 0.0]]
    np.testing.assert_allclose(draw.actions, expected, rtol=1e-5)
    assert draw.actions.dtype == np.float32
    assert draw.raw.tolist() == outputs.tolist() and draw.log_probs.tolist() == [0.0] * 3
    assert stream.state_dict() == before


def test_an_unbound_deterministic_head_acts_in_minus_one_to_one():
    draw = DeterministicHead(1).draw(torch.tensor([[-50.0], [0.5], [50.0]]), RandomStream(0))
    assert draw.actions.ravel().tolist() == pytest.approx([-1.0, math.tanh(0.5), 1.0])


def test_deterministic_actions_have_the_shape_of_the_box():
    head = DeterministicHead(4)
    head.bind(spaces.Box(-1, 1, (2, 2)))
    actions = head.draw(torch.zeros(3, 4), RandomStream(0)).actions
    assert actions.shape == head.with_noise(actions, 0.1, RandomStream(0)).shape == (3, 2, 2)
    assert head.uniform(3, RandomStream(0)).shape == (3, 2, 2)


def test_noise_is_as_wide_as_the_box():
    head = in_the_plane()
    actions = head.with_noise(np.tile(np.array([[0.0, 5.0]], np.float32), (50_000, 1)), 0.1, RandomStream(1))
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 5.0], atol=0.01)  # > 4 standard errors
    np.testing.assert_allclose(actions.std(axis=0), [0.2, 0.5], rtol=0.02)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.02


def test_noise_does_not_leave_the_box():
    head = in_the_plane()
    actions = head.with_noise(np.tile(PLANE.high, (1000, 1)), 3.0, RandomStream(1))
    assert all(PLANE.contains(row) for row in actions)
    assert 0.4 < (actions[:, 0] == 2.0).mean() < 0.6


def test_no_noise_leaves_actions_as_they_are():
    actions = np.array([[1.25, 2.5]], np.float32)
    assert in_the_plane().with_noise(actions, 0.0, RandomStream(0)).tolist() == [[1.25, 2.5]]


def test_noise_stays_inside_a_float64_box_and_where_the_bounds_are_equal():
    space = spaces.Box(np.array([0.1, 3.0]), np.array([0.7, 3.0]), dtype=np.float64)
    head = DeterministicHead(2)
    head.bind(space)
    centre = head.draw(torch.zeros(500, 2), RandomStream(0)).actions
    for actions in (head.with_noise(centre, 5.0, RandomStream(0)), head.uniform(500, RandomStream(0))):
        assert all(space.contains(row.astype(np.float64)) for row in actions)


def test_noise_of_a_head_without_a_space_stays_within_minus_one_and_one():
    head = DeterministicHead(2)
    actions = head.with_noise(np.full((200, 2), 0.9, np.float32), 0.5, RandomStream(0))
    assert np.abs(actions).max() == 1.0
    np.testing.assert_allclose(head.raw_of(actions), actions)


def test_actions_go_to_minus_one_to_one_and_back():
    head = in_the_plane()
    actions = head.uniform(100, RandomStream(0))
    raw = head.raw_of(actions)
    assert raw.dtype == np.float32 and np.abs(raw).max() <= 1.0
    np.testing.assert_allclose(head.of_unit(raw), actions, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="actions must have 2 values"):
        head.raw_of(np.zeros((3, 1)))


def test_a_deterministic_head_names_what_does_not_fit():
    head = DeterministicHead(2)
    for outputs in (torch.zeros(5, 4), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"actor must return \[B, 2\], got"):
            head.params(outputs)
    for space, message in (
        (spaces.Box(-np.inf, np.inf, (2,)), "must have finite bounds"),
        (spaces.Box(-1, 1, (3,)), "action_dim=2 needs a Box"),
        (spaces.Discrete(2), "action_dim=2 needs a Box"),
    ):
        with pytest.raises(ValueError, match=message):
            head.bind(space)
    with pytest.raises(ValueError, match="masks have no meaning for continuous actions"):
        head.draw(torch.zeros(1, 2), RandomStream(0), action_masks=np.ones((1, 2)))
    with pytest.raises(NonFiniteError):
        head.draw(torch.tensor([[0.0, math.nan]]), RandomStream(0))


def test_drawing_touches_no_global_random_state():
    before = torch.random.get_rng_state()
    CategoricalHead().draw(torch.zeros(3, 3), RandomStream(0))
    NormalHead(1).draw(params_of([0.0], [0.0]), RandomStream(0))
    assert torch.equal(torch.random.get_rng_state(), before)
