"""What every agent of this package does in the same way: acting, hyperparameters, weights, state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from optix_fast.agents.arguments import check_seed
from optix_fast.agents.files.agent_card import Parts
from optix_fast.agents.files.policy_files import load_policy, save_policy
from optix_fast.agents.files.weight_files import read_module_file
from optix_fast.agents.hyperparams import Hyperparams, read_config
from optix_fast.agents.learning_rates import LearningRates
from optix_fast.agents.observations import fit_observations, has_batch_axis
from optix_fast.buffers import ReplaySegments
from optix_fast.envs.normalizers import RewardNormalizer
from optix_fast.learners.experience import Experience
from optix_fast.learners.learner import Backend, Learner
from optix_fast.learners.model import LayerWatch, Model
from optix_fast.learners.policy import Policy
from optix_fast.learners.tensors import to_numpy
from optix_fast.locks import CallLock, exclusive
from optix_fast.networks.heads import CategoricalHead, Draw
from optix_fast.pipelines.acting import batched
from optix_fast.pipelines.masks import mask_of
from optix_fast.random import RandomStream
from optix_fast.types import (
    Array,
    BaseAgent,
    HyperparamSet,
    Stateful,
    Tree,
    is_recording,
    no_recording,
    tree_leaves,
    tree_map,
)

A = TypeVar("A", bound="Agent")
# What an agent has of the core.
_CONNECTIONS = ("_learner", "_graph")
# What every agent's state_dict holds.
_COMMON_STATE = (
    "model", "obs_normalizer", "updates", "hyperparams", "learning_rates", "streams", "env_steps",
)  # fmt: skip


Method = TypeVar("Method", bound=Callable[..., Any])


def as_in_training(method: Method) -> Method:
    """The method under the agent's lock, with gradients and ordinary tensors also where the caller has
    switched them off (no_grad, inference_mode)."""
    with_gradients = torch.inference_mode(False)(torch.enable_grad()(method))
    return exclusive(with_gradients)


@contextmanager
def restored_on_error(agent: Stateful) -> Iterator[None]:
    """Undo a failed update: whatever it raises, the agent is as it was."""
    before = agent.state_dict()
    try:
        yield
    except BaseException:
        agent.load_state_dict(before)
        raise


class Agent(BaseAgent):
    """The base of the agents. An algorithm adds its constructor, its learn(), and what belongs to its state.

    Acting in training, acting in evaluation and updates draw from three random streams of their own, so that
    evaluating changes nothing in training.

    Threads may share an agent. One of them is served at a time: who acts during learn() waits for its end,
    and so do copies and pickles. A pickle holds copies of the agent's parts, shared ones too.

    **Learning rates.** The hyperparameter learning_rate is the rate of the first parameter group (of the
    actor's optimizer, where there are several) that is not zero. Setting it, in the constructor too, scales
    all groups of all optimizers by the same factor, so that groups keep their ratios, and
    set_hyperparams(get_hyperparams()) changes nothing.

    Args:
        hyperparams: see `config_type`; unknown keys are warned about once.
        seed: of the random streams; None draws one from the operating system.
    """

    algorithm: ClassVar[str]
    config_type: ClassVar[type[Any]]
    reward_normalizer: RewardNormalizer | None = None
    kept_on_rollback = ("streams", "env_steps")

    _policy: Policy
    _model: Model
    _learner: Learner[..., Any]
    # Whether exploration is not the policy's but added to its actions.
    _policy_is_deterministic: ClassVar[bool] = False
    # What learns from stored transitions has them here.
    _experience: Experience | None = None
    updates = 0
    # What state_dict() holds beside _COMMON_STATE.
    _own_state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, hyperparams: HyperparamSet, seed: int | None) -> None:
        self._hyperparams = Hyperparams(self.config_type, hyperparams)
        self._lock = CallLock()
        check_seed(seed)
        self._observation_space: Any = None
        self._rates = LearningRates()
        self._layers = LayerWatch()
        self._root = RandomStream(seed)
        self._streams = {name: self._root.spawn(name) for name in ("rollout", "evaluation", "update")}
        self.env_steps = 0

    # --- copies and pickles: without the core's handles, which are made anew --------------------------

    def __deepcopy__(self: A, memo: dict[int, Any]) -> A:
        copied = memo[id(self)] = type(self).__new__(type(self))
        with self._lock:  # no other thread learns in between
            copied.__setstate__(copy.deepcopy(self._own_attributes(), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            # A pickler reads it after the lock is free again.
            return copy.deepcopy(self._own_attributes())

    def _own_attributes(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in _CONNECTIONS}
        learner = self.__dict__.get("_learner")
        return state if learner is None else {**state, "_requested_backend": learner.requested}

    def __setstate__(self, state: dict[str, Any]) -> None:
        backend = state.pop("_requested_backend", None)
        self.__dict__.update(state)
        if backend is not None:
            self._connect(backend)

    # --- what an algorithm consists of ------------------------------------------------------------

    def _connect(self, backend: str) -> None:
        """Make `_learner`."""

    def _networks(self) -> dict[str, nn.Module]:
        """The networks that weight files hold, by the names of the files."""
        return self._model.networks()

    def _get_state(self) -> dict[str, Any]:
        """The algorithm's share of state_dict(), copied: the keys of `_own_state`."""
        return {}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError or RuntimeError unless `_set_state` can take the state. Nothing changes."""

    def _set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `_get_state` gave."""

    @classmethod
    def _from_parts(cls: type[A], parts: Parts) -> A:
        """An agent of the parts that its files describe."""
        raise NotImplementedError(f"{cls.__name__} cannot be built from its files")

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the constructor that say what the weights mean."""
        return {}

    # --- what it runs on --------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._policy.device

    @property
    @exclusive
    def backend(self) -> Backend:
        """What the next window and update run on: "native" or "torch", with the `reason` for the latter.

        Recognised anew before every window and every update, so that it follows what is done to modules and
        optimizers. Whether the core reads the observations shows with the first of them."""
        return self._learner.backend()

    @property
    def is_on_policy(self) -> bool:
        """Whether it learns from windows of its present policy alone."""
        return self._experience is None

    # --- acting -----------------------------------------------------------------------------------

    @exclusive
    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Learn the spaces of the environment; pipelines call it.

        Raises:
            ValueError: the action space does not fit the policy, or it is bound to another one.
        """
        self._policy.head.bind(action_space)
        if observation_space is not None:
            self._observation_space = observation_space

    def act(self, observation: Any, deterministic: bool = False) -> Any:
        """The action for one observation, in environment units: an int, or an array [A].

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable (most valuable) action instead of a random one.

        Raises:
            NonFiniteError: the network's outputs are NaN or infinite.
        """
        with self._lock:
            if type(observation) is not np.ndarray:
                observation = tree_map(to_numpy, observation)
            return self._act(observation, deterministic)

    def _act(self, observation: Tree, deterministic: bool) -> Any:
        acted = self._learner.act(observation, deterministic, False, self._stream())
        if acted is not None:
            return acted.action
        batch, mask = self._batch_of_one(observation)
        return self._scalar(self._draw(batch, deterministic, mask).actions[0])

    def act_batch(
        self, observations: Tree, deterministic: bool = False, action_masks: Array | None = None
    ) -> Array:
        """Actions [N, …] for N observations [N, …]; nothing is recorded."""
        with self._lock:
            actions = self._learner.act_batch(observations, deterministic, action_masks, self._stream())
            if actions is not None:
                return actions
            return self._draw(observations, deterministic, action_masks).actions

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t of a window and write into its columns what learn() will read
        (see pipelines.rows.WindowRows); returns the environments' actions."""
        with self._lock:
            if not self._learner.act_rows(
                observations, rows, t, self._stream(), self._policy_is_deterministic
            ):
                self._act_rows(observations, rows, t)
        actions: Array = rows.actions[t]
        return actions

    def _act_rows(self, observations: Tree, rows: Any, t: int) -> None:
        """Row t, in torch."""
        rows.actions[t][...] = self._draw(observations, False, self._mask_of(rows, t)).actions

    def predict(
        self,
        observation: Tree,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """The action for one observation, or the actions for a batch of them, outside of training: nothing
        is recorded, and training's random numbers stay where they are.

        The arguments and the returned pair are those of Stable-Baselines3's predict, save that the default
        is the deterministic policy.

        Args:
            observation: one observation, or N of them with a batch axis in front.
            state, episode_start: there for code that passes them; policies here have no state.
            deterministic: the most probable (most valuable) action instead of a random one.

        Returns:
            The action (an int, or an array [A]) or N actions in an array, and `state` as it was given.
        """
        del episode_start
        observation = tree_map(to_numpy, observation)
        with no_recording():
            if not has_batch_axis(observation, self._observation_space, self._policy.actor):
                return self.act(observation, deterministic), state
            together = batched(self, "act_batch")
            if together is not None:
                return together(observation, deterministic), state
            n = len(tree_leaves(observation)[0])
            rows = (tree_map(lambda leaf, i=i: leaf[i], observation) for i in range(n))
            return np.stack([self.act(row, deterministic) for row in rows]), state

    @exclusive
    def action_probs(self, observation: Any) -> Array:
        """Probabilities of the actions, [K], for one observation.

        Raises:
            ValueError: the actions are not those of a Discrete space.
        """
        head = self._policy.head
        if not isinstance(head, CategoricalHead):
            got = "" if head.space is None else f", got {head.space}"
            raise ValueError(f"action_probs needs a Discrete action space{got}")
        batch, _ = self._batch_of_one(tree_map(to_numpy, observation))
        with torch.no_grad():
            probs: Array = head.probabilities(self._policy.params(self._prepare(batch)))[0]
        return probs

    def _draw(self, observations: Tree, deterministic: bool, masks: Array | None) -> Draw:
        prepared = self._prepare_to_act(observations)
        if masks is None:
            masks = mask_of(observations, {})
        return self._policy.draw(prepared, self._stream(), deterministic, masks)

    def _prepare(self, observations: Tree) -> Tree:
        """Observations [B, …], checked, as the networks read them."""
        fitted = fit_observations(observations, self._observation_space, self._policy.actor)
        return self._policy.prepare(fitted)

    def _prepare_to_act(self, observations: Tree) -> Tree:
        """The same for acting in torch; RuntimeError where the agent must be native."""
        prepared = self._prepare(observations)
        self._learner.require_acting()
        return prepared

    def _stream(self) -> RandomStream:
        return self._streams["rollout" if is_recording() else "evaluation"]

    @staticmethod
    def _batch_of_one(observation: Tree) -> tuple[Tree, Array | None]:
        """Observation and mask with a batch axis."""
        batch = tree_map(lambda leaf: leaf[None], observation)
        return batch, mask_of(batch, {})

    @staticmethod
    def _mask_of(rows: Any, t: int) -> Array | None:
        return None if rows.action_masks is None else rows.action_masks[t]

    @staticmethod
    def _scalar(action: Any) -> Any:
        """An action of a Discrete space as an int."""
        return int(action) if action.ndim == 0 and action.dtype.kind in "iu" else action

    # --- hyperparameters --------------------------------------------------------------------------

    @exclusive
    def get_hyperparams(self) -> HyperparamSet:
        """All hyperparameters in force, defaults included; learning_rate as the optimizer has it (while it
        is being annealed: as it was before). The set is a copy."""
        hyperparams = self._hyperparams.all()
        hyperparams.params["learning_rate"] = self._rates.rate(self._groups())
        return hyperparams

    @exclusive
    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the whole set: what is missing takes its default. A new learning_rate scales all parameter
        groups. Counts that a tuner made fractions of are rounded; unknown keys are warned about once.

        Raises:
            TypeError, ValueError: not a HyperparamSet, or a value out of its range; nothing changes.
        """
        config = self._hyperparams.read(hyperparams)
        self._check_config(config)
        self._hyperparams.replace(hyperparams)
        self._apply(config, hyperparams.params)

    @property
    def chosen_hyperparams(self) -> frozenset[str]:
        """The hyperparameters that are not just at their defaults: tuners search among these."""
        return frozenset({*self._hyperparams.params, "learning_rate"})

    def _check_config(self, config: Any) -> None:
        """Raise ValueError where a new config does not fit what the agent was made with."""
        if self._experience is not None:
            self._experience.check_batch(config)

    def _apply(self, config: Any, params: Mapping[str, Any]) -> None:
        """Take over what lies outside of the set: here the learning rates."""
        if "learning_rate" in params:
            self._rates.set(self._groups(), float(config.learning_rate))

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._model.optimizers().values() for group in optimizer.param_groups]

    # --- weights ----------------------------------------------------------------------------------

    @exclusive
    def save_weights(self, path: str) -> None:
        """Write the policy into the directory `path`: one .safetensors for each network, and
        policy.safetensors for what else is the policy's (a free log_std, the observation normalizer).

        A write that fails leaves all files of an earlier save as they were. Where a file cannot be replaced,
        what is left is a mixture of two saves, which load and load_weights refuse.
        """
        save_policy(self, path)

    @exclusive
    def save(self, path: str, replay: bool = False) -> None:
        """Write the agent into the directory `path`: its weights and its training state, which `load` goes
        on from.

        Args:
            path: created where it does not exist.
            replay: with the stored transitions, which may be large.
        """
        save_policy(self, path, self.state_dict(replay))

    @classmethod
    def load(
        cls: type[A],
        path: str,
        device: str | torch.device = "auto",
        backend: str = "auto",
        seed: int | None = None,
    ) -> A:
        """An agent from the files that `save` or `save_weights` wrote: networks, optimizers, normalizers,
        spaces and hyperparameters are theirs. What `save` wrote goes on training where it was.

        `Agent.load` makes an agent of whatever class was saved.

        Args:
            path: the directory.
            device, backend, seed: see the agent's constructor.

        Raises:
            FileNotFoundError, ValueError: there is no such directory, a file is missing or damaged, they
                come from several saves, or an older version wrote them, which did not say what the weights
                belong to.
            RuntimeError: another kind of agent was saved, or one with networks of your own: construct it
                and call load_weights.
        """
        from optix_fast.agents.files.rebuild import (
            load_agent,  # it knows every agent, and they know this class
        )

        return load_agent(cls, str(path), device, backend, seed)

    def _not_described(self) -> list[str]:
        """What a card cannot hold, beside networks and optimizers."""
        return []

    @exclusive
    def load_weights(self, path: str) -> None:
        """Read what save_weights wrote, or an older run's .pt files; target networks become copies.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged, or they come from several saves.
            RuntimeError: the files belong to something else: another algorithm, other layers, activations
                or shapes, other actions, with or without an observation normalizer. Nothing is loaded then.
        """
        load_policy(self, [path])

    @exclusive
    def average_weights(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of the networks saved in `paths`; what else belongs to the policy is
        taken from the first."""
        if not paths:
            raise ValueError("paths must name at least one directory")
        load_policy(self, paths)

    @exclusive
    def perturb_weights(self, noise_scale: float) -> None:
        """Multiply each parameter by 1 + noise_scale·N(0, 1); target networks become copies."""
        perturb(self._perturbed(), noise_scale, self._streams["update"].normal)
        self._model.copy_targets()

    def _perturbed(self) -> list[nn.Parameter]:
        return self._model.parameters()

    def _read_network(self, path: str, name: str) -> dict[str, torch.Tensor]:
        return read_module_file(path, name)

    def _weights_were_loaded(self) -> None:
        """Called after weight files have been loaded."""

    @exclusive
    def teardown(self) -> None:
        """Move the networks to the CPU and empty the CUDA cache."""
        self._model.to_cpu()
        self._policy.device = torch.device("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --- state ------------------------------------------------------------------------------------

    @as_in_training
    def state_dict(self, replay: bool | ReplaySegments = True) -> dict[str, Any]:
        """Everything that training goes on from: networks, optimizers, normalizers, hyperparameters, random
        streams, counters, stored transitions.

        Args:
            replay: False leaves the stored transitions out; whoever loads such a state keeps its own.
                Segments on disk take them in instead, and the state refers to those.
        """
        stored = {} if self._experience is None else {"experience": self._experience.state_dict(replay)}
        normalizer = self._policy.obs_normalizer
        return {
            "model": self._model.state_dict(),
            "obs_normalizer": None if normalizer is None else normalizer.state_dict(),
            **self._get_state(),
            **stored,
            "updates": self.updates,
            "hyperparams": dict(self._hyperparams.params),
            "learning_rates": self._rates.state_dict(),
            "streams": {name: stream.state_dict() for name, stream in self._streams.items()},
            "env_steps": self.env_steps,
        }

    @as_in_training
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture.

        Raises:
            RuntimeError, ValueError: the state is incomplete (the missing keys are named) or of another
                architecture. Nothing is loaded then.
        """
        stored = () if self._experience is None else ("experience",)
        wanted = (*self._own_state, *stored, *_COMMON_STATE)
        missing = [repr(key) for key in wanted if key not in state]
        if missing:
            raise ValueError(f"the state of a {type(self).__name__} must hold {', '.join(missing)}")
        try:
            self._renew_targets()
            self._model.check_state(state["model"])
            self._check_normalizer(state["obs_normalizer"])
            self._check_state(state)
            read_config(self.config_type, state["hyperparams"])
            before = self.state_dict(replay=False)
            try:
                self._restore(state)
            except BaseException:
                self._restore(before)
                raise
        except KeyError as error:
            raise ValueError(f"the state of a {type(self).__name__} must hold {error}") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, stream in self._streams.items():
            stream.load_state_dict(state["streams"][name])
        self._rates.load_state_dict(state["learning_rates"])
        self._hyperparams.restore(state["hyperparams"])
        self.env_steps, self.updates = int(state["env_steps"]), int(state["updates"])
        self._model.load_state_dict(state["model"])
        if self._policy.obs_normalizer is not None:
            self._policy.obs_normalizer.load_state_dict(state["obs_normalizer"])
        self._set_state(state)
        if self._experience is not None:
            # Last: the stored transitions are not kept aside while the state is being loaded.
            self._experience.load_state_dict(state["experience"])

    def _check_normalizer(self, saved: Any) -> None:
        own = self._policy.obs_normalizer
        if (own is None) != (saved is None):
            has, other = ("has no", "has one") if saved is None else ("has an", "does not")
            raise RuntimeError(f"the state {has} obs_normalizer, this agent {other}")
        if own is not None and np.shape(saved["statistics"]["mean"]) != own.mean.shape:
            shape = list(np.shape(saved["statistics"]["mean"]))
            raise RuntimeError(f"obs_normalizer has shape {shape}, not {list(own.mean.shape)}")

    def _renew_targets(self) -> None:
        """New target networks where the user has given networks other layers."""
        if self._model.TARGETS and self._layers.changed(self._model.networks().values()):
            self._model.renew_targets()


def perturb(parameters: Iterable[nn.Parameter], scale: float, normal: Any) -> None:
    """Multiply each parameter by 1 + scale·N(0, 1); `normal(shape)` draws the numbers."""
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.from_numpy(np.asarray(normal(tuple(parameter.shape)), np.float32))
            parameter.mul_(1.0 + scale * noise.to(parameter.device))
