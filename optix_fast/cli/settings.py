"""A run's complete settings: the environment's preset, then a file, then the command line."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import gymnasium as gym
import yaml

from optix_fast.agents import choose_algo
from optix_fast.agents.factory import ALGORITHMS
from optix_fast.agents.hyperparams import check_whole_counts, unknown_keys
from optix_fast.config import TrainConfig, as_declared, check_keys, parse_yaml
from optix_fast.names import unknown_name
from optix_fast.presets import preset_for, reward_threshold


def complete_config(
    env_id: str, settings: Mapping[str, Any], params: Mapping[str, str] | None = None
) -> TrainConfig:
    """The preset of the environment, overridden by `settings` and `params`, as a checked config.

    Hyperparameters are overridden one by one, and those that nobody set are written out with their defaults;
    algo "auto" becomes the algorithm it stands for; a target_score that nobody set becomes the environment's
    registered reward_threshold.

    Args:
        settings: of the run, under the names of TrainConfig's fields.
        params: hyperparameters and settings as text, see read_params; they outrank `settings`.

    Raises:
        gymnasium.error.Error: the environment does not exist or cannot be made.
        ValueError, TypeError: a setting or hyperparameter is unknown, wrong or given twice.
    """
    values = {name: _value(name, text) for name, text in (params or {}).items()}
    settings = {**settings, **{name: value for name, value in values.items() if name in _SETTINGS}}
    probe = gym.make(env_id, **_mapping(settings, "env_kwargs"))
    try:
        threshold = reward_threshold(probe)
        algo = choose_algo(settings.get("algo", "auto"), probe.action_space)
        preset = preset_for(env_id, probe, ALGORITHMS[algo].presets)
    finally:
        probe.close()
    known = [*(f.name for f in fields(ALGORITHMS[algo].config)), *_SETTINGS]
    for name in values:
        if name not in known:
            raise ValueError(unknown_name(f"setting or hyperparameter of {algo}", name, known))
    hyperparams = {
        **preset.get("hyperparams", {}),
        **_mapping(settings, "hyperparams"),
        **{name: value for name, value in values.items() if name not in _SETTINGS},
    }
    merged = {**preset, **settings, "env_id": env_id, "algo": algo}
    check_keys(merged)
    config = TrainConfig.from_dict(merged | {"hyperparams": complete_hyperparams(algo, hyperparams)})
    if config.target_score is None and threshold is not None:
        config = replace(config, target_score=float(threshold))
    return config


# What `-p` sets beside hyperparameters: all settings but those with a place of their own.
_SETTINGS = [f.name for f in fields(TrainConfig) if f.name not in ("env_id", "algo", "hyperparams")]


def read_params(pairs: Sequence[str]) -> dict[str, str]:
    """The texts of NAME=VALUE pairs by name.

    Raises:
        ValueError: not such a pair, or a name is given twice.
    """
    params: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not (name and equals and text):
            raise ValueError(f"-p takes NAME=VALUE, for example -p learning_rate=1e-3; got {pair!r}")
        if name in params:
            raise ValueError(f"-p {name} is given twice")
        params[name] = text
    return params


def complete_hyperparams(algo: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters of the algorithm, in the types that its config declares.

    Raises:
        ValueError, TypeError: unknown, of the wrong type, or out of range.
    """
    config = ALGORITHMS[algo].config
    wrong = unknown_keys(params, config)
    if wrong:
        raise ValueError("; ".join(wrong.values()))
    hints = typing.get_type_hints(config)
    typed = {name: as_declared(value, hints[name]) for name, value in params.items()}
    check_whole_counts(typed, config)
    return asdict(config(**typed))


def _value(name: str, text: str) -> Any:
    """What a text on the command line means: the same as in YAML, and 64,64 is a list."""
    hint = typing.get_type_hints(TrainConfig)[name] if name in _SETTINGS else None
    if typing.get_origin(hint) is tuple and not text.startswith("["):
        text = f"[{text}]"
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        raise ValueError(f"-p {name}: {text!r} is not a value") from None


def _mapping(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {value!r}")
    return value
