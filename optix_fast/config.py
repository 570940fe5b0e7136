"""TrainConfig: everything that a training run is, as one dataclass that reads and writes YAML."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from optix_fast.algorithms import Algorithm
from optix_fast.fields import check_field, count, number
from optix_fast.names import unknown_name

Vectorization = Literal["sync", "async", "vector_entry_point"]


@dataclass(frozen=True)
class TrainConfig:
    """A training run. `presets.preset_for(env_id)` fills in what suits an environment.

    Args:
        env_id: a registered Gymnasium id ("module:Id-v0" imports the module first, from the current folder
            too).
        env_kwargs: passed to the environment's constructor.
        algo: "auto" chooses from the action space; see make_agent.
        steps: environment steps at most.
        n_envs: environments stepped together.
        vectorization: "sync" steps them in one process, "async" in one process each; "vector_entry_point"
            takes the environment's own vectorised version.
        vector_kwargs: passed to the vector environment: to SyncVectorEnv or AsyncVectorEnv, or, beside
            env_kwargs, to the environment's own vectorised version.
        n_steps: steps of each environment per window.
        seed: of weights, streams and environments.
        device: "cpu", "cuda" or "cuda:N"; "auto" is the CPU for layers narrower than 512, else CUDA where
            there is one.
        backend: "native" is the compiled core, "torch" the reference; "auto" takes the core where it can.
        hidden_sizes: widths of the hidden layers.
        activation: tanh, relu, leaky_relu, elu, celu, selu, silu, gelu, gelu_tanh, mish, softplus, sigmoid,
            log_sigmoid, softsign, relu6, hardtanh, hardsigmoid or hardswish; None is tanh for ppo, else relu.
        normalize_observations: by their running mean and variance (ppo).
        normalize_rewards: by the running variance of the return (ppo).
        squash: of a Gaussian ppo policy: bound actions by tanh instead of clipping them.
        log_std: of a Gaussian ppo policy: "state" makes it an output of the network, "free" a parameter.
        dueling: split the Q-network into value and advantages (dqn).
        norm: "layer", "rms", "batch" or "batch_renorm" puts a LayerNorm, RMSNorm, BatchNorm1d or BatchRenorm
            before the activation of each hidden layer.
        residual: add what a hidden layer reads to what it returns, where both are equally wide.
        dropout: share of each hidden layer's activations that updates set to zero.
        hyperparams: of the algorithm.
        anneal: lower the learning rate and the clip ratio linearly to zero over `steps` (ppo).
        target_score: stop once this mean return is reached and confirmed; None takes the environment's
            registered reward_threshold; an environment without one has no target.
        confirm_episodes: deterministic episodes that confirm it.
        tuner: changes hyperparameters during the run, see optix_fast.tuners; "none" leaves them as they are.
        max_snapshots: checkpoints kept.
        state_interval: seconds between writes of the state that --resume goes on from; 0 writes it after
            every window.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    algo: Literal["auto", Algorithm] = "auto"
    steps: int = count(200_000)
    n_envs: int = count(8)
    vectorization: Vectorization = "sync"
    vector_kwargs: dict[str, Any] = field(default_factory=dict)
    n_steps: int = count(256)
    seed: int = count(0, least=0)
    device: str = "auto"
    backend: Literal["auto", "native", "torch"] = "auto"
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str | None = None
    normalize_observations: bool = False
    normalize_rewards: bool = False
    squash: bool = True
    log_std: Literal["state", "free"] = "state"
    dueling: bool = False
    norm: Literal["layer", "rms", "batch", "batch_renorm"] | None = None
    residual: bool = False
    dropout: float = number(0.0, 0.0, 1.0, below=True)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    anneal: bool = False
    target_score: float | None = number(None)
    confirm_episodes: int = count(100)
    tuner: Literal["none", "spsa", "backoff", "momentum", "pbt"] = "none"
    max_snapshots: int = count(5)
    state_interval: float = number(30.0, 0.0)

    def __post_init__(self) -> None:
        """Check types and ranges.

        Raises:
            TypeError: a value is of the wrong type (the field is named).
            ValueError: a value is out of its range.
        """
        hints = typing.get_type_hints(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "hidden_sizes" and isinstance(value, list):
                value = tuple(value)
            value = as_declared(value, hints[f.name])
            object.__setattr__(self, f.name, value)
            _check_type(f.name, value, hints[f.name])
            check_field(f, value)
        if not self.env_id:
            raise ValueError("env_id must not be empty")
        if min(self.hidden_sizes, default=1) < 1:
            raise ValueError(f"hidden_sizes must be positive, got {list(self.hidden_sizes)}")
        if self.steps < self.n_envs:
            raise ValueError(
                f"steps must allow one step of each of the {self.n_envs} environments, got {self.steps}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A config from a mapping.

        Raises:
            ValueError: an unknown key (the nearest known one is named), or env_id is missing.
        """
        check_keys(values)
        if "env_id" not in values:
            raise ValueError("env_id is missing")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainConfig:
        """A config from a YAML file; see read_yaml and from_dict."""
        return cls.from_dict(read_yaml(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in field order."""
        return asdict(self) | {"hidden_sizes": list(self.hidden_sizes)}

    def to_yaml(self, path: str | Path) -> None:
        """Write the config; from_yaml reads the same one back."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, its keys checked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a YAML mapping, or an unknown key; the file is named.
    """
    path = Path(path)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"config file not found: {path}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path} is not readable YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of settings, got a {type(values).__name__}")
    try:
        check_keys(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return values


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2: 1e-3 and 1e4 are floats, which PyYAML reads as text. A key given
    twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, numbers as in YAML 1.2.

    Raises:
        yaml.YAMLError: not YAML, or a key is given twice.
    """
    return yaml.load(text, Loader=_Loader)


def as_declared(value: Any, hint: Any) -> Any:
    """A value as the type that its field declares: 1e6 as an int, 1 as a float, and the word none as None
    where the field may be None. Any other value is returned as it is."""
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if types.NoneType in kinds and isinstance(value, str) and value.lower() == "none":
        return None
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if float in kinds and type(value) is int:
        return float(value)
    return value


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse keys that TrainConfig does not have.

    Raises:
        ValueError: names the key and the nearest known one.
    """
    known = [f.name for f in fields(TrainConfig)]
    for key in values:
        if key not in known:
            raise ValueError(unknown_name("setting", key, known))


def _check_type(name: str, value: Any, hint: Any) -> None:
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            choices = ", ".join(repr(choice) for choice in get_args(hint))
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        return
    if origin in (types.UnionType, typing.Union):
        if value is not None:
            _check_type(name, value, get_args(hint)[0])
        return
    kind = get_origin(hint) or hint
    wrong_bool = isinstance(value, bool) and kind is not bool
    allowed = (int, float) if kind is float else kind
    items_ok = kind is not tuple or (isinstance(value, tuple) and all(type(item) is int for item in value))
    if wrong_bool or not isinstance(value, allowed) or not items_ok:
        expected = "list of integers" if kind is tuple else kind.__name__
        raise TypeError(f"{name} must be a {expected}, got {value!r}")
