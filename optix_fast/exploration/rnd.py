"""Random network distillation: a bonus for observations that a predictor has not learned yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.envs.normalizers import RunningMeanStd
from optix_fast.random import RandomStream
from optix_fast.types import (
    Array,
    BasePipeline,
    EpisodeData,
    Stateful,
    Tree,
    is_recording,
    tree_leaves,
    tree_map,
)

_OBSERVATION_CLIP = 5.0


class RNDPipeline(BasePipeline):
    """Adds an intrinsic bonus to the rewards of another pipeline's windows (Burda et al. 2018).

        bonus_t = ‖predictor(s_{t+1}) − target(s_{t+1})‖² / (σ + norm_eps)
        reward_t ← reward_t + eta·bonus_t

    s_{t+1} is what the action of row t led to: the next row's observation, the true final one where
    an episode ended, `next_observations` after the last row; the row's own observation where that is
    unknown or not finite. σ is the running deviation of the squared distances. Observations are
    flattened (a Dict's or Tuple's leaves one after the other), normalised by running statistics and
    clipped to ±5. After each window the predictor takes `n_updates` Adam steps on minibatches of what
    the window led to.

    Windows keep the environment's rewards in `extrinsic_rewards`: the loop scores those, and the agent
    learns from `rewards`. `metadata` has `intrinsic_mean` and `rnd_loss`. Inside `no_recording()` (a
    validation pipeline) windows pass through untouched. Other attributes are the wrapped pipeline's.

    Args:
        pipeline: what is wrapped; its windows' fields are as in EpisodeData.
        obs_dim: size of one flattened observation.
        embedding_dim: width of both networks (two layers, ReLU between) and of their outputs.
        eta: weight of the bonus, also kept as `base_eta`; the loop lowers it at each new best and raises
            it on a plateau, by set_eta.
        predictor_lr: Adam's.
        norm_eps: added to σ.
        n_updates: minibatches per window.
        minibatch_size: rows in each, at most.
        seed: of the networks and minibatches; the target's differ from the predictor's.
        device: where the networks are.

    Raises:
        TypeError: `pipeline` is not a pipeline, or a number is of another type.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        pipeline: Any,
        obs_dim: int,
        embedding_dim: int = 64,
        eta: float = 0.1,
        predictor_lr: float = 1e-3,
        norm_eps: float = 1e-8,
        *,
        n_updates: int = 8,
        minibatch_size: int = 256,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        for method in ("setup", "episodes", "teardown"):
            if isinstance(pipeline, type) or not callable(getattr(pipeline, method, None)):
                raise TypeError(f"pipeline must be an object with {method}(), got {pipeline!r}")
        sizes = {
            "obs_dim": obs_dim,
            "embedding_dim": embedding_dim,
            "n_updates": n_updates,
            "minibatch_size": minibatch_size,
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
        for name, value in {"eta": eta, "predictor_lr": predictor_lr, "norm_eps": norm_eps}.items():
            _amount(name, value)
        self.pipeline = pipeline
        self.obs_dim, self.n_updates, self.minibatch_size = int(obs_dim), int(n_updates), int(minibatch_size)
        self.eta = self.base_eta = float(eta)
        self.norm_eps = float(norm_eps)
        self._device = torch.device(device)
        root = RandomStream(seed, "rnd")
        self._stream = root.spawn("minibatches")
        shape = (self.obs_dim, int(embedding_dim))
        self._target = _network(*shape, root.spawn("target")).to(self._device).requires_grad_(False)
        self._predictor = _network(*shape, root.spawn("predictor")).to(self._device)
        self._optimizer = torch.optim.Adam(self._predictor.parameters(), lr=float(predictor_lr))
        self._observations = RunningMeanStd((self.obs_dim,))
        self._distances = RunningMeanStd(())

    # --- the contract ---------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """The wrapped pipeline's."""
        return bool(self.pipeline.is_live)

    def setup(self) -> None:
        """Set up the wrapped pipeline."""
        self.pipeline.setup()

    def teardown(self) -> None:
        """Tear the wrapped pipeline down."""
        self.pipeline.teardown()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "pipeline":  # not there yet, or private
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.pipeline, name)

    def set_eta(self, eta: float) -> None:
        """Weigh the bonus by `eta`, by 0 if that is negative."""
        self.eta = max(_amount("eta", eta, -np.inf), 0.0)

    def episodes(self) -> Iterator[EpisodeData]:
        """The wrapped pipeline's windows with their bonus.

        Raises:
            ValueError: the observations are not of obs_dim numbers.
        """
        for data in self.pipeline.episodes():
            yield self._with_bonus(data) if is_recording() and data.length > 0 else data

    # --- the bonus ------------------------------------------------------------------------------

    def _with_bonus(self, data: EpisodeData) -> EpisodeData:
        reached = self._flat(_reached(data))
        unknown = ~np.isfinite(reached).all(axis=1)
        if unknown.any():  # the last observation of an episode that terminated may be anything
            reached[unknown] = self._flat(data.observations)[unknown]
        self._observations.update(reached)
        inputs = torch.from_numpy(self._observations.normalize(reached, _OBSERVATION_CLIP)).to(self._device)
        with torch.no_grad():
            wanted = self._target(inputs)
            distance = (self._predictor(inputs) - wanted).square().sum(dim=1).cpu().numpy()
        self._distances.update(distance)
        bonus = distance / (np.sqrt(self._distances.var) + self.norm_eps)
        loss = self._learn(inputs, wanted)
        extrinsic = np.asarray(data.rewards)
        rewards = (extrinsic + self.eta * bonus).astype(np.result_type(extrinsic.dtype, np.float32))
        metadata = {**data.metadata, "intrinsic_mean": float(bonus.mean()), "rnd_loss": loss}
        return replace(data, rewards=rewards, extrinsic_rewards=data.rewards, metadata=metadata)

    def _learn(self, inputs: Tensor, wanted: Tensor) -> float:
        """A few steps of the predictor towards the target; the mean loss of a row's output."""
        losses = []
        rows = inputs.shape[0]
        order = np.empty(0, np.int64)
        for _ in range(self.n_updates):
            if len(order) == 0:
                order = self._stream.permutation(rows)
            index = torch.from_numpy(order[: self.minibatch_size]).to(self._device)
            order = order[self.minibatch_size :]
            loss = (self._predictor(inputs[index]) - wanted[index]).square().mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _flat(self, observations: Tree) -> Array:
        leaves = [np.asarray(leaf, np.float64) for leaf in tree_leaves(observations)]
        flat = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
        if flat.shape[1] != self.obs_dim:
            raise ValueError(
                f"RNDPipeline: obs_dim must be {flat.shape[1]}, the size of one flattened observation, "
                f"got {self.obs_dim}"
            )
        return flat

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizer, statistics, random stream, eta; and the wrapped pipeline's state where it
        has one."""
        optimizer = self._optimizer.state_dict()
        return {
            "eta": self.eta,
            "base_eta": self.base_eta,
            "target": {k: v.clone() for k, v in self._target.state_dict().items()},
            "predictor": {k: v.clone() for k, v in self._predictor.state_dict().items()},
            "optimizer": {
                str(i): {k: v.clone() for k, v in entry.items()} for i, entry in optimizer["state"].items()
            },
            "observations": self._observations.state_dict(),
            "distances": self._distances.state_dict(),
            "stream": self._stream.state_dict(),
            "pipeline": self.pipeline.state_dict() if isinstance(self.pipeline, Stateful) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; obs_dim and embedding_dim must be the same."""
        self._target.load_state_dict(state["target"])
        self._predictor.load_state_dict(state["predictor"])
        groups = self._optimizer.state_dict()["param_groups"]
        moments = {int(i): dict(entry) for i, entry in state["optimizer"].items()}
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._observations.load_state_dict(state["observations"])
        self._distances.load_state_dict(state["distances"])
        self._stream.load_state_dict(state["stream"])
        self.eta, self.base_eta = float(state["eta"]), float(state["base_eta"])
        if state["pipeline"] is not None:
            self.pipeline.load_state_dict(state["pipeline"])


def _amount(name: str, value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (np.isfinite(value) and value >= least):
        raise ValueError(f"{name} must be a finite number of at least {least:g}, got {value!r}")
    return float(value)


def _network(obs_dim: int, width: int, stream: RandomStream) -> nn.Module:
    """Two layers with He-normal weights and no biases to begin with."""
    # What torch initialises them with is replaced below, and its global generator goes on as if untouched.
    # (nn.utils.skip_init loads torch's compiler.)
    with torch.random.fork_rng(devices=[]):
        layers = [nn.Linear(rows, width) for rows in (obs_dim, width)]
    with torch.no_grad():
        for layer in layers:
            weights = stream.normal(tuple(layer.weight.shape)) * np.sqrt(2.0 / layer.in_features)
            layer.weight.copy_(torch.from_numpy(weights.astype(np.float32)))
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _reached(data: EpisodeData) -> Tree:
    """What each row's action led to, [R, …]. Where the window does not tell, the row's own observation."""
    n_envs = data.n_envs
    valid = np.ones((data.n_steps, n_envs), np.bool_) if data.valid is None else data.valid
    after = data.next_observations
    if after is None and data.final_obs is not None:
        after = tree_map(lambda leaf: np.asarray(leaf)[None], data.final_obs)

    def follow(grid: Array, after: Any, finals: Any) -> Array:
        out = grid.copy()
        out[:-1] = grid[1:]
        if after is not None:
            out[-1] = after
        done = np.asarray(data.grid("dones"), np.bool_)
        out[done] = grid[done]
        if finals is not None:
            out.reshape(-1, *grid.shape[2:])[data.final_rows] = finals
        return out[valid]

    grid = data.grid("observations")
    nothing = tree_map(lambda leaf: None, grid)
    finals = nothing if data.final_rows is None else data.final_observations
    return tree_map(follow, grid, nothing if after is None else after, finals)
