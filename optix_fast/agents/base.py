"""What every agent of this package does in the same way: acting, hyperparameters, weights, state."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from optix_fast.agents.arguments import check_backend, check_seed
from optix_fast.agents.files.policy_files import load_policy, save_policy
from optix_fast.agents.files.weight_files import perturb, read_module_file
from optix_fast.agents.guards import as_in_training
from optix_fast.agents.hyperparams import Hyperparams
from optix_fast.agents.learning_rates import LearningRates
from optix_fast.agents.state import load_state, state_of
from optix_fast.buffers import ReplaySegments
from optix_fast.envs.normalizers import RewardNormalizer
from optix_fast.learners.acting import Acting
from optix_fast.learners.experience import Experience
from optix_fast.learners.learner import Backend, Learner
from optix_fast.learners.model import LayerWatch, Model
from optix_fast.learners.policy import Policy
from optix_fast.learners.tensors import to_numpy
from optix_fast.learners.uniform_start import UniformStart
from optix_fast.locks import CallLock, exclusive
from optix_fast.pipelines.acting import batched
from optix_fast.random import RandomStream
from optix_fast.types import Array, BaseAgent, HyperparamSet, Tree, no_recording, tree_leaves, tree_map

A = TypeVar("A", bound="Agent")


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
        backend: see the agents' constructors.
    """

    algorithm: ClassVar[str]
    config_type: ClassVar[type[Any]]
    reward_normalizer: RewardNormalizer | None = None
    kept_on_rollback = ("streams", "env_steps")

    _policy: Policy
    _model: Model
    _acting: Acting
    _learner: Learner[Any, ..., Any]
    # What learns from stored transitions has them here, and the uniform actions that it may start with.
    _experience: Experience | None = None
    _uniform: UniformStart | None = None
    updates = 0
    # The keys of `_get_state`.
    _own_state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, hyperparams: HyperparamSet, seed: int | None, backend: str = "torch") -> None:
        self._hyperparams = Hyperparams(self.config_type, hyperparams)
        self._lock = CallLock()
        check_seed(seed)
        check_backend(backend)
        self._rates = LearningRates()
        self._layers = LayerWatch()
        self._root = RandomStream(seed)
        self._streams = {name: self._root.spawn(name) for name in ("rollout", "evaluation", "update")}
        self.env_steps = 0

    # --- copies and pickles -----------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __deepcopy__(self: A, memo: dict[int, Any]) -> A:
        copied = memo[id(self)] = type(self).__new__(type(self))
        with self._lock:  # no other thread learns in between
            state = copy.deepcopy(self.__getstate__(), memo)
        copied.__setstate__(state)
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        with self._lock:
            # Copies, because a pickler reads them after the lock is free again.
            state = copy.deepcopy(self.__getstate__(), {id(self): self})
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]

    # --- what an algorithm consists of ------------------------------------------------------------

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

        Checked before every window and every update, so that it follows changes of modules and optimizers.
        Whether the core reads the observations shows with the first of them."""
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
            self._bind_observations(observation_space)

    def _bind_observations(self, space: Any) -> None:
        self._acting.observation_space = space
        if self._experience is not None:
            self._experience.bind(space)

    def act(self, observation: Any, deterministic: bool = False) -> Any:
        """The action for one observation, in environment units: an int, or an array [A].

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable (most valuable) action instead of a random one.

        Raises:
            NonFiniteError: the network's outputs are NaN or infinite.
        """
        with self._lock:
            return self._acting.act(observation, deterministic)

    def act_batch(
        self, observations: Tree, deterministic: bool = False, action_masks: Array | None = None
    ) -> Array:
        """Actions [N, …] for N observations [N, …]; nothing is recorded."""
        with self._lock:
            return self._acting.act_batch(observations, deterministic, action_masks)

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t of a window and write into its columns what learn() will read
        (see pipelines.rows.WindowRows); returns the environments' actions."""
        with self._lock:
            return self._acting.act_rows(observations, rows, t)

    def predict(
        self,
        observation: Tree,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """The action for one observation, or the actions for a batch of them, outside of training: nothing
        is recorded, and training's random numbers stay where they are.

        The arguments and the returned pair are those of Stable-Baselines3's predict; only the default
        differs: the deterministic policy.

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
            if not self._acting.has_batch_axis(observation):
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
        return self._acting.probabilities(observation)

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

        `Agent.load` makes an agent of the class that was saved.

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
        if self._uniform is not None:
            self._uniform.end()  # they have learned something already

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
        return state_of(self, replay)

    @as_in_training
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture.

        Raises:
            RuntimeError, ValueError: the state is incomplete (the missing keys are named) or of another
                architecture. Nothing is loaded then.
        """
        load_state(self, state)

    def _renew_targets(self) -> None:
        """New target networks where the user has given networks other layers, and Dropout as the user has put
        it in the networks."""
        if not self._model.TARGETS:
            return
        if self._layers.changed(self._model.networks().values()):
            self._model.renew_targets()
        else:
            self._model.renew_dropouts()
