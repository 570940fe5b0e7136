"""Acting in the core against acting in torch: the same numbers drawn, the same columns written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents import PPOAgent, TorchDQNAgent, TorchGaussianPPOAgent, TorchPPOAgent, make_agent
from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.learners.native.acting import NativeActor
from optix_fast.networks import GreedyHead, mlp
from optix_fast.networks.heads import component_sizes
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.pipelines.rows import WindowRows
from optix_fast.random import RandomStream
from optix_fast.types import HyperparamSet, NonFiniteError, no_recording

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")

FEATURES = 5
BOX = spaces.Box(np.array([-2.0, -np.inf, 0.0], np.float32), np.array([1.0, np.inf, 0.5], np.float32))
WIDE_BOX = spaces.Box(-0.7, 0.3, (3,), np.float64)
SPACES: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "discrete": (spaces.Discrete(4), {}),
    "discrete from 7": (spaces.Discrete(20, start=7), {}),
    "multi-discrete": (spaces.MultiDiscrete([3, 17, 2], start=[0, 5, -1]), {}),
    "multi-discrete of two axes": (spaces.MultiDiscrete([[3, 2], [4, 2]], start=[[0, 5], [-1, 0]]), {}),
    "bits": (spaces.MultiBinary(5), {}),
    "bits of two axes": (spaces.MultiBinary((2, 3)), {}),
    "box": (BOX, {}),
    "box unsquashed": (BOX, {"squash": False}),
    "box free log_std": (BOX, {"log_std": "free"}),
    "float64 box": (WIDE_BOX, {}),
    "box of two axes": (spaces.Box(-3.0, 3.0, (2, 2)), {}),
}


def agent(
    kind: str, backend: str, shared: bool = False, normalize: bool = False, activation: str = "tanh"
) -> PPOAgent:
    space, options = SPACES[kind]
    generator = torch.Generator().manual_seed(3)
    discrete = not isinstance(space, spaces.Box)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        width = sum(component_sizes(space))
    else:
        width = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))
    outputs = width
    if not discrete and options.get("log_std") != "free":
        outputs = 2 * width
    actor = mlp([FEATURES, 33, 16, outputs], activation, 1.0, generator)
    critic = mlp([FEATURES, 33, 16, 1], activation, 1.0, generator)
    if shared:
        trunk = actor[:4]
        actor, critic = nn.Sequential(trunk, actor[4]), nn.Sequential(trunk, critic[4])
    unique = {id(p): p for net in (actor, critic) for p in net.parameters()}
    optimizer = torch.optim.Adam(unique.values(), lr=1e-3)
    normalizer = None
    if normalize:
        normalizer = ObsNormalizer((FEATURES,), clip=1.5)
        normalizer.update(np.random.default_rng(0).normal(2.0, 3.0, (50, FEATURES)))
    common: dict[str, Any] = {
        "device": "cpu", "obs_normalizer": normalizer, "action_space": space, "seed": 1, "backend": backend,
    }  # fmt: skip
    if discrete:
        return TorchPPOAgent(actor, critic, optimizer, HyperparamSet({}), **common)
    return TorchGaussianPPOAgent(actor, critic, optimizer, width, HyperparamSet({}), **common, **options)


def window(kind: str, n_envs: int, steps: int = 3) -> WindowRows:
    rows = WindowRows(steps, n_envs, spaces.Box(-np.inf, np.inf, (FEATURES,)), SPACES[kind][0])
    rows.observations[...] = np.random.default_rng(n_envs).normal(1.0, 2.0, rows.observations.shape)
    return rows


def filled(it: PPOAgent, rows: WindowRows) -> dict[str, Any]:
    for t in range(rows.n_steps):
        returned = it.act_rows(rows.observations[t], rows, t)
        np.testing.assert_array_equal(returned, rows.actions[t])
    return {"actions": rows.actions, **rows.columns}


def assert_columns(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, column in ours.items():
        assert column.dtype == theirs[name].dtype
        np.testing.assert_allclose(column, theirs[name], rtol=2e-5, atol=2e-6, err_msg=name)


@EVERY_PATH
@pytest.mark.parametrize("n_envs", [1, 3, 7, 8, 40])
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
def test_windows_are_the_same(kind: str, n_envs: int, normalize: bool) -> None:
    native, in_torch = agent(kind, "native", normalize=normalize), agent(kind, "torch", normalize=normalize)
    rows, their_rows = window(kind, n_envs), window(kind, n_envs)
    assert_columns(filled(native, rows), filled(in_torch, their_rows))
    assert native.state_dict()["streams"] == in_torch.state_dict()["streams"]


@EVERY_PATH
@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.parametrize("n_envs", [2, 16])
def test_a_shared_trunk(kind: str, n_envs: int) -> None:
    native, in_torch = agent(kind, "native", shared=True), agent(kind, "torch", shared=True)
    assert_columns(filled(native, window(kind, n_envs)), filled(in_torch, window(kind, n_envs)))


@EVERY_PATH
@pytest.mark.parametrize("n_envs", [1, 12])
def test_masked_actions_are_never_taken(n_envs: int) -> None:
    native, in_torch = agent("discrete from 7", "native"), agent("discrete from 7", "torch")
    windows = [window("discrete from 7", n_envs, steps=20) for _ in range(2)]
    for rows in windows:
        rows.action_masks = np.random.default_rng(0).random((20, n_envs, 20)) < 0.2
        rows.action_masks[..., 5] = True
    assert_columns(filled(native, windows[0]), filled(in_torch, windows[1]))
    taken = np.take_along_axis(windows[0].action_masks, windows[0].actions[..., None] - 7, axis=-1)
    assert taken.all()
    windows[0].action_masks[3, 0] = False
    with pytest.raises(ValueError, match="a row allows no action"):
        native.act_rows(windows[0].observations[3], windows[0], 3)


@EVERY_PATH
@pytest.mark.parametrize("n_envs", [1, 12])
def test_masked_components_are_never_taken(n_envs: int) -> None:
    native, in_torch = agent("multi-discrete", "native"), agent("multi-discrete", "torch")
    windows = [window("multi-discrete", n_envs, steps=20) for _ in range(2)]
    for rows in windows:
        rows.action_masks = np.random.default_rng(0).random((20, n_envs, 22)) < 0.3
        rows.action_masks[..., [1, 9, 21]] = True  # one of each component
    assert_columns(filled(native, windows[0]), filled(in_torch, windows[1]))
    assert windows[0].action_masks is not None
    positions = windows[0].actions - np.array([0, 5, -1]) + np.array([0, 3, 20])
    assert np.take_along_axis(windows[0].action_masks, positions, axis=-1).all()
    windows[0].action_masks[3, 0, 20:] = False
    with pytest.raises(ValueError, match="a row allows no action"):
        native.act_rows(windows[0].observations[3], windows[0], 3)


@EVERY_PATH
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_batches_and_single_actions(kind: str, deterministic: bool) -> None:
    native, in_torch = agent(kind, "native", normalize=True), agent(kind, "torch", normalize=True)
    observations = np.random.default_rng(2).normal(size=(9, FEATURES))
    for batch in (observations, observations.astype(np.float32)):
        ours, theirs = (it.act_batch(batch, deterministic) for it in (native, in_torch))
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
        one, other = (it.act(batch[0], deterministic) for it in (native, in_torch))
        assert type(one) is type(other)
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    assert [len(it._queue) for it in (native, in_torch)] == [2, 2]
    for ours_acted, theirs_acted in zip(native._queue._queue, in_torch._queue._queue, strict=True):
        seen = 4 * FEATURES  # bytes of the observation; those of the action follow
        assert ours_acted.key[:seen] == theirs_acted.key[:seen]
        np.testing.assert_allclose(ours_acted[1:3], theirs_acted[1:3], rtol=2e-5, atol=2e-6)
        assert np.shape(ours_acted.raw) == np.shape(theirs_acted.raw)
        np.testing.assert_allclose(ours_acted.raw, theirs_acted.raw, rtol=2e-5, atol=2e-6)


def test_actions_do_not_change_when_the_agent_acts_again() -> None:
    it = agent("box", "native")
    first = it.act(np.zeros(FEATURES, np.float32))
    kept = first.copy()
    it.act(np.ones(FEATURES, np.float32))
    np.testing.assert_array_equal(first, kept)


def test_sampled_actions_follow_the_softmax() -> None:
    it = agent("discrete", "native")
    observation = np.full(FEATURES, 0.3, np.float32)
    counts = np.bincount(it.act_batch(np.tile(observation, (20_000, 1))), minlength=4) / 20_000
    p = it.action_probs(observation)  # type: ignore[attr-defined]
    # Four standard errors.
    assert (np.abs(counts - p) < 4 * np.sqrt(p * (1 - p) / 20_000)).all()


# --- borders -------------------------------------------------------------------------------------

# The first of four uniform numbers at this block of the stream of seed 0 is exactly zero.
ZERO_AT = 1_685_756


def at_zero(it: Any) -> Any:
    """The agent with a uniform number of zero as its next."""
    stream = RandomStream(0)
    stream.advance(ZERO_AT)
    other = RandomStream(0)
    other.load_state_dict(stream.state_dict())
    assert other.uniform() == 0.0
    it._streams.update(dict.fromkeys(it._streams, stream))
    return it


@EVERY_PATH
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_uniform_number_of_zero_takes_no_forbidden_action(backend: str) -> None:
    it = at_zero(agent("discrete", backend))
    masks = np.array([[False, False, True, True]])
    assert it.act_batch(np.zeros((1, FEATURES), np.float32), False, masks).tolist() == [2]


def network_of_values(*values: float) -> nn.Linear:
    network = nn.Linear(FEATURES, len(values))
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor(values))
    return network


def greedy_agent(backend: str, epsilon: float, *values: float) -> TorchDQNAgent:
    network = network_of_values(*values)
    optimizer = torch.optim.Adam(network.parameters())
    hyperparams = HyperparamSet({"epsilon": epsilon})
    return TorchDQNAgent(network, len(values), optimizer, hyperparams, "cpu", seed=1, backend=backend)


@EVERY_PATH
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_epsilon_zero_never_explores(backend: str) -> None:
    # A second number chooses among the four actions: with n = 1 it lies in the same block as the zero.
    chosen = int(
        np.floor(4 * at_zero(greedy_agent(backend, 0.0, 0, 0, 0, 0))._streams["rollout"].uniform(2)[1])
    )
    values = [float(k == (chosen + 1) % 4) for k in range(4)]
    it = at_zero(greedy_agent(backend, 0.0, *values))
    assert it.act_batch(np.zeros((1, FEATURES), np.float32)).tolist() == [(chosen + 1) % 4]
    # With any epsilon above zero it is the other one.
    it = at_zero(greedy_agent(backend, 1e-6, *values))
    assert it.act_batch(np.zeros((1, FEATURES), np.float32)).tolist() == [chosen]


@EVERY_PATH
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_the_first_of_equals_is_taken(backend: str) -> None:
    observations = np.zeros((3, FEATURES), np.float32)
    it = greedy_agent(backend, 0.0, 1.0, 2.0, 2.0, 2.0)
    assert it.act_batch(observations).tolist() == [1, 1, 1]
    assert it.act_batch(observations, True, np.tile([True, False, True, True], (3, 1))).tolist() == [2, 2, 2]
    actor, critic = network_of_values(0.5, 1.5, 1.5), network_of_values(0.0)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    policy = TorchPPOAgent(actor, critic, optimizer, HyperparamSet({}), "cpu", seed=1, backend=backend)
    assert policy.act_batch(observations, True).tolist() == [1, 1, 1]


# --- what happens in the middle of a window -----------------------------------------------------


def in_mid_window(change: Any, kind: str = "discrete") -> tuple[PPOAgent, PPOAgent]:
    """`change` is done to both agents after the first row; the rest of the window must agree."""
    native, in_torch = agent(kind, "auto", normalize=True), agent(kind, "torch", normalize=True)
    windows = []
    for it in (native, in_torch):
        rows = window(kind, 3, steps=6)
        it.act_rows(rows.observations[0], rows, 0)
        torch.manual_seed(5)
        change(it)
        for t in range(1, 6):
            it.act_rows(rows.observations[t], rows, t)
        windows.append({"actions": rows.actions, **rows.columns})
    assert_columns(*windows)
    return native, in_torch


def replace_weight(it: PPOAgent) -> None:
    it._actor[0].weight = nn.Parameter(torch.randn(33, FEATURES))


def move_memory(it: PPOAgent) -> None:
    it._actor[0].weight.data = torch.randn(33, FEATURES)


def change_slope(it: PPOAgent) -> None:
    it._actor[1] = nn.LeakyReLU(0.3)
    it.act_batch(np.zeros((1, FEATURES), np.float32))
    it._actor[1].negative_slope = 0.9


def change_constant(layer: nn.Module, name: str, value: float) -> Callable[[PPOAgent], None]:
    def change(it: PPOAgent) -> None:
        it._actor[1] = layer
        it.act_batch(np.zeros((1, FEATURES), np.float32))
        setattr(it._actor[1], name, value)

    return change


CHANGES = {
    "write into a weight": lambda it: it._actor[0].weight.data.mul_(-2.0),
    "replace a weight": replace_weight,
    "move a weight": move_memory,
    "replace a layer": lambda it: it._critic.__setitem__(2, nn.Linear(33, 16)),
    "replace an activation": lambda it: it._actor.__setitem__(1, nn.ReLU()),
    "change a slope": change_slope,
    "change a lower bound": change_constant(nn.Hardtanh(), "min_val", -0.1),
    "change an upper bound": change_constant(nn.Hardtanh(), "max_val", 0.1),
    "change beta": change_constant(nn.Softplus(), "beta", 3.0),
    "change a threshold": change_constant(nn.Softplus(), "threshold", 0.1),
    "append a layer": lambda it: it._critic.append(nn.Linear(1, 1)),
    "widen a layer": lambda it: (
        it._actor.__setitem__(0, nn.Linear(FEATURES, 40)), it._actor.__setitem__(2, nn.Linear(40, 16))
    ),
    "remove a bias": lambda it: setattr(it._actor[0], "bias", None),
    "update the normalizer": lambda it: it.obs_normalizer.update(np.ones((30, FEATURES))),
    "write into the normalizer": lambda it: it.obs_normalizer.mean.__iadd__(1.0),
    "change the clip": lambda it: setattr(it.obs_normalizer, "clip", 0.1),
    "freeze": lambda it: it._actor[0].requires_grad_(False),
    # What the core does not serve:
    "hook": lambda it: it._actor[1].register_forward_hook(lambda m, i, o: 0.5 * o),
    "pre-hook": lambda it: it._critic.register_forward_pre_hook(lambda m, i: (2.0 * i[0],)),
    "a forward of its own": lambda it: setattr(it._actor[1], "forward", lambda x: x.sin()),
    "another layer": lambda it: it._actor.__setitem__(1, nn.Tanhshrink()),
    "parametrization": lambda it: nn.utils.parametrizations.orthogonal(it._actor[0]),
    "transposed memory": lambda it: setattr(
        it._actor[0].weight, "data", it._actor[0].weight.data.t().contiguous().t()
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_seen_on_the_next_row(what: str) -> None:
    native, _ = in_mid_window(CHANGES[what])
    served = list(CHANGES).index(what) <= list(CHANGES).index("freeze")
    assert native._acting.native.ready() == served


def test_a_changed_log_std_is_seen() -> None:
    def change(it: PPOAgent) -> None:
        log_std = it._policy.log_std
        assert log_std is not None
        log_std.data.fill_(0.7)

    in_mid_window(change, "box free log_std")


def test_binding_another_space_later_is_seen() -> None:
    it = agent("discrete", "native")
    free = TorchPPOAgent(
        it._actor, it._critic, it._optimizer, HyperparamSet({}), device="cpu", seed=0, backend="native"
    )
    assert free.act(np.zeros(FEATURES, np.float32)) in range(4)
    free.bind_spaces(None, spaces.Discrete(4, start=10))
    assert free.act(np.zeros(FEATURES, np.float32)) in range(10, 14)


# --- failures and refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["discrete", "box", "box free log_std"])
@pytest.mark.parametrize("n", [1, 9])
def test_nan_is_an_error_not_an_action(kind: str, n: int) -> None:
    for backend in ("native", "torch"):
        it = agent(kind, backend)
        with pytest.raises(NonFiniteError, match="policy output"):
            it.act_batch(np.full((n, FEATURES), np.nan, np.float32))


def test_backend_says_what_runs_and_why_not() -> None:
    it = agent("discrete", "auto")
    assert it.backend == "native" and it.backend.reason == ""
    handle = it._actor[1].register_forward_hook(lambda *_: None)
    assert it.backend == "torch" and it.backend.reason == "actor: Tanh has a hook"
    handle.remove()
    assert it.backend == "native"
    assert agent("discrete", "torch").backend.reason == "backend='torch' was asked for"


def test_native_refuses_instead_of_falling_back() -> None:
    it = agent("discrete", "native")
    it._actor[1] = nn.PReLU()
    rows = window("discrete", 2)
    with pytest.raises(RuntimeError, match="backend='native', but actor: PReLU is not served"):
        it.act_rows(rows.observations[0], rows, 0)
    with pytest.raises(RuntimeError, match="PReLU is not served"):
        it.act(np.zeros(FEATURES, np.float32))
    images = gym.wrappers.TransformObservation(
        gym.make("CartPole-v1"), np.uint8, gym.spaces.Box(0, 255, (4,), np.uint8)
    )
    with pytest.raises(RuntimeError, match=r"the observations hold images \(uint8\), which torch reads"):
        make_agent("ppo", images, backend="native")
    assert make_agent("ppo", images).backend == "torch"


def test_observations_of_another_kind_go_to_torch() -> None:
    it = agent("discrete", "auto")
    assert it.act(torch.zeros(FEATURES)) in range(4)
    assert it.act([0.0] * FEATURES) in range(4)
    strided = np.zeros((3, 2 * FEATURES), np.float32)[:, ::2]
    assert it.act_batch(strided).shape == (3,)
    with pytest.raises(ValueError, match=r"observation must have shape \[5\]"):
        it.act_batch(np.zeros((3, FEATURES + 1), np.float32))


# --- whole windows ------------------------------------------------------------------------------


def trained(backend: str, params: dict[str, Any], env: str, **kwargs: Any) -> tuple[PPOAgent, list[Any]]:
    it = make_agent(
        "ppo", gym.make(env), hyperparams={"n_epochs": 3, "minibatch_size": 32, **params}, seed=0,
        backend=backend, normalize_observations=True, normalize_rewards=True, **kwargs,
    )  # fmt: skip
    pipeline = VectorBatchPipeline([lambda: gym.make(env)] * 2, it, window_size=32, seed=4)
    diagnostics = [it.learn(data) for data, _ in zip(pipeline.episodes(), range(3), strict=False)]
    return it, diagnostics


@pytest.mark.parametrize(
    ("env", "params", "kwargs"),
    [
        ("CartPole-v1", {}, {}),
        ("CartPole-v1", {"target_kl": 1e-5}, {}),
        ("CartPole-v1", {"value_clip": 0.2, "normalize_advantages": "window", "anneal_steps": 1000}, {}),
        ("Pendulum-v1", {}, {}),
        ("Pendulum-v1", {}, {"log_std": "free", "squash": False}),
    ],
)
def test_three_windows_train_alike(env: str, params: dict[str, Any], kwargs: dict[str, Any]) -> None:
    (native, ours), (in_torch, theirs) = (trained(b, params, env, **kwargs) for b in ("native", "torch"))
    ours_state, theirs_state = native.state_dict(), in_torch.state_dict()
    assert ours_state["streams"] == theirs_state["streams"]
    for p, q in zip(native._model.parameters(), in_torch._model.parameters(), strict=True):
        assert float((p - q).detach().norm() / q.detach().norm().clamp_min(1e-3)) < 1e-3
    for one, other in zip(ours, theirs, strict=True):
        assert one["n_updates"] == other["n_updates"]
        assert one["policy_loss"] == pytest.approx(other["policy_loss"], abs=1e-4)


class TwoPedals(gym.ActionWrapper[Any, Any, Any]):
    """CartPole pushed right where the first number exceeds half of the second."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.action_space = spaces.MultiDiscrete([3, 5], start=[1, 0])

    def action(self, action: Any) -> int:
        assert action.shape == (2,) and self.action_space.contains(action)
        return int(action[0] > action[1] / 2)


def test_several_components_train_alike() -> None:
    agents = []
    for backend in ("native", "torch"):
        hyperparams = {"minibatch_size": 256, "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9}
        it = make_agent("ppo", TwoPedals(), hyperparams=hyperparams, seed=0, backend=backend)
        pipeline = VectorBatchPipeline([TwoPedals] * 8, it, window_size=128, seed=4)
        it.learn(next(pipeline.episodes()))
        agents.append(it)
    native, in_torch = agents
    for p, q in zip(native._model.parameters(), in_torch._model.parameters(), strict=True):
        assert float((p - q).detach().norm() / q.detach().norm().clamp_min(1e-3)) < 1e-3


def test_a_failed_update_leaves_the_agent_as_it_was() -> None:
    it, _ = trained("native", {}, "CartPole-v1")
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 2, it, window_size=64, seed=4)
    data = next(pipeline.episodes())
    data.log_probs = data.log_probs.copy()
    data.log_probs[-1] = np.nan
    before = copy.deepcopy(it.state_dict())
    with pytest.raises(NonFiniteError, match="loss"):
        it.learn(data)
    assert it.state_dict()["streams"] == before["streams"]
    for name in ("actor", "critic"):
        for key, value in it.state_dict()["model"]["networks"][name].items():
            assert torch.equal(value, before["model"]["networks"][name][key])


def test_evaluation_leaves_the_rollout_alone() -> None:
    disturbed, plain = agent("discrete", "native"), agent("discrete", "native")
    rows, their_rows = window("discrete", 2), window("discrete", 2)
    for t in range(3):
        with no_recording():
            disturbed.act(np.ones(FEATURES, np.float32))
            disturbed.act_batch(np.ones((4, FEATURES), np.float32), deterministic=True)
        disturbed.act_rows(rows.observations[t], rows, t)
        plain.act_rows(their_rows.observations[t], their_rows, t)
    np.testing.assert_array_equal(rows.actions, their_rows.actions)
    np.testing.assert_array_equal(rows.columns["log_probs"], their_rows.columns["log_probs"])
    assert len(disturbed._queue) == 0


# --- without a critic -----------------------------------------------------------------------------


class ValuePolicy:
    def __init__(self, space: spaces.Discrete, epsilon: float) -> None:
        self.actor = mlp([FEATURES, 33, 16, int(space.n)], "relu", 1.0, torch.Generator().manual_seed(3))
        self.critic = None
        self.head = GreedyHead(epsilon)
        self.head.bind(space)
        self.obs_normalizer = None


@pytest.mark.parametrize("n_envs", [1, 3, 40])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("n_actions", [1, 4])
def test_epsilon_greedy_actions_are_the_heads(
    n_envs: int, epsilon: float, masked: bool, n_actions: int
) -> None:
    space = spaces.Discrete(n_actions, start=7)
    policy = ValuePolicy(space, epsilon)
    actor, ours, theirs = NativeActor(policy), RandomStream(5), RandomStream(5)
    rows = WindowRows(20, n_envs, spaces.Box(-np.inf, np.inf, (FEATURES,)), space)
    rng = np.random.default_rng(n_envs)
    rows.observations[...] = rng.normal(1.0, 2.0, rows.observations.shape)
    if masked:
        rows.action_masks = rng.random((20, n_envs, n_actions)) < 0.4
        rows.action_masks[..., 0] = True
    for t in range(20):
        assert actor.act_rows(rows.observations[t], rows, t, ours)
        with torch.no_grad():
            values = policy.actor(torch.from_numpy(rows.observations[t]))
        masks = None if rows.action_masks is None else rows.action_masks[t]
        expected = policy.head.draw(values, theirs, action_masks=masks).actions
        np.testing.assert_array_equal(rows.actions[t], expected)
        policy.head.epsilon *= 0.99
    assert rows.columns == {}
    assert ours.state_dict() == theirs.state_dict()


def test_values_that_are_not_finite_stop_at_acting() -> None:
    policy = ValuePolicy(spaces.Discrete(2), 1.0)
    with torch.no_grad():
        policy.actor[-1].bias[1] = torch.nan
    with pytest.raises(NonFiniteError):
        NativeActor(policy).act(np.zeros(FEATURES, np.float32), False, False, RandomStream(0))
