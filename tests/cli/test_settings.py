"""A run's complete settings, from preset, file and command line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from optix_fast.agents.factory import ALGORITHMS
from optix_fast.cli.settings import complete_config, read_params
from optix_fast.config import TrainConfig


def test_texts_become_what_the_fields_declare() -> None:
    params = read_params(
        ["learning_rate=1e-3", "n_epochs=1e1", "gamma=1", "target_kl = none", "normalize_advantages=none",
         "n_envs=4", "hidden_sizes=32,16", "normalize_observations=true",
         "env_kwargs={sutton_barto_reward: true}"]
    )  # fmt: skip
    config = complete_config("CartPole-v1", {"steps": 5000}, params)
    chosen = {name: config.hyperparams[name] for name in ("learning_rate", "n_epochs", "gamma", "target_kl")}
    assert chosen == {"learning_rate": 1e-3, "n_epochs": 10, "gamma": 1.0, "target_kl": None}
    assert type(chosen["n_epochs"]) is int
    assert type(chosen["gamma"]) is float
    assert config.hyperparams["normalize_advantages"] == "none"
    assert (config.n_envs, config.hidden_sizes, config.normalize_observations) == (4, (32, 16), True)
    assert config.env_kwargs == {"sutton_barto_reward": True}


def test_command_line_outranks_file_and_preset() -> None:
    settings = {"hyperparams": {"gamma": 0.5, "gae_lambda": 0.5}}
    config = complete_config("CartPole-v1", settings, {"gamma": "0.25"})
    assert config.hyperparams["gamma"] == 0.25
    assert config.hyperparams["gae_lambda"] == 0.5
    assert config.hyperparams["minibatch_size"] == 256


@pytest.mark.parametrize(
    ("env_id", "algo"),
    [
        *(("CartPole-v1", algo) for algo in ("ppo", "dqn")),
        *(("Pendulum-v1", algo) for algo in ("sac", "td3", "tqc", "crossq")),
    ],
)
def test_every_hyperparameter_in_force_is_written_out(env_id: str, algo: str) -> None:
    config = complete_config(env_id, {"algo": algo})
    assert list(config.hyperparams) == [f.name for f in fields(ALGORITHMS[algo].config)]


def test_no_hyperparameter_has_the_name_of_a_setting() -> None:
    settings = {f.name for f in fields(TrainConfig)}
    for config in (each.config for each in ALGORITHMS.values()):
        assert settings & {f.name for f in fields(config)} == set()


@pytest.mark.parametrize("pair", ["learning_rate", "learning_rate=", "=3", "learning_rate 1e-3"])
def test_what_is_no_pair_is_refused_with_an_example(pair: str) -> None:
    with pytest.raises(ValueError, match="-p takes NAME=VALUE, for example -p learning_rate=1e-3; got"):
        read_params([pair])


def test_a_pair_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="-p gamma is given twice"):
        read_params(["gamma=0.9", "gamma=0.99"])


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        (
            "learning_rat",
            "1e-3",
            ValueError,
            "of ppo 'learning_rat'; the nearest known one is 'learning_rate'",
        ),
        ("lr", "1e-3", ValueError, "of ppo 'lr'; it is called 'learning_rate' here"),
        ("total_timesteps", "1e6", ValueError, "of ppo 'total_timesteps'; it is called 'steps' here"),
        ("n_epochs", "2.5", ValueError, "n_epochs must be a whole number"),
        ("learning_rate", "fast", TypeError, "learning_rate must be a number, got 'fast'"),
        ("learning_rate", "-1", ValueError, "learning_rate must be between 0.0 and inf, got -1.0"),
        ("value_clip_mode", "min", ValueError, "value_clip_mode must be 'max' or 'clipped', got 'min'"),
        ("normalize_observations", "perhaps", TypeError, "normalize_observations must be a bool"),
        ("hidden_sizes", "wide", TypeError, "hidden_sizes must be a list of integers"),
        ("gamma", "[1", ValueError, r"-p gamma: '\[1' is not a value"),
    ],
)
def test_wrong_values_are_named(name: str, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        complete_config("CartPole-v1", {}, {name: text})


@pytest.mark.parametrize("name", ["hyperparams", "env_kwargs"])
@pytest.mark.parametrize("value", [3, ["learning_rate"]])
def test_a_mapping_of_the_wrong_kind_is_named(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a mapping, got"):
        complete_config("CartPole-v1", {name: value})
