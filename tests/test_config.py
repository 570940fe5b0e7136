"""TrainConfig and the presets behind it."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from optix_fast.agents import make_agent
from optix_fast.agents.factory import ALGORITHMS
from optix_fast.config import TrainConfig, parse_yaml, read_yaml
from optix_fast.fields import kind_of
from optix_fast.presets import preset_for, reward_threshold


def test_yaml_round_trip_keeps_every_value(tmp_path: Path) -> None:
    config = TrainConfig(
        "CartPole-v1", env_kwargs={"sutton_barto_reward": True}, steps=1234, hidden_sizes=(32, 16, 8),
        hyperparams={"gamma": 0.9, "target_kl": None}, target_score=None, log_std="free", seed=7,
    )  # fmt: skip
    config.to_yaml(tmp_path / "c.yaml")
    assert TrainConfig.from_yaml(tmp_path / "c.yaml") == config


def test_lists_from_yaml_become_hidden_sizes(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("env_id: X-v0\nhidden_sizes: [8, 4]\n")
    assert TrainConfig.from_yaml(tmp_path / "c.yaml").hidden_sizes == (8, 4)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"step": 5}, ValueError, "unknown setting 'step'; the nearest known one is 'steps'"),
        ({}, ValueError, "env_id is missing"),
        ({"env_id": "X", "steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"env_id": "X", "steps": 4, "n_envs": 8}, ValueError, "steps must allow one step of each of the 8"),
        ({"env_id": "X", "steps": "many"}, TypeError, "steps must be a int, got 'many'"),
        ({"env_id": "X", "steps": True}, TypeError, "steps must be a int, got True"),
        ({"env_id": "X", "hidden_sizes": [64, 1.5]}, TypeError, "hidden_sizes must be a list of integers"),
        ({"env_id": "X", "hidden_sizes": [0]}, ValueError, "hidden_sizes must be positive"),
        ({"env_id": "X", "vectorization": "threads"}, ValueError, "vectorization must be one of 'sync'"),
        ({"env_id": "X", "target_score": float("nan")}, ValueError, "target_score must be finite"),
        ({"env_id": "X", "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"env_id": 3}, TypeError, "env_id must be a str"),
        ({"env_id": ""}, ValueError, "env_id must not be empty"),
        (
            {"env_id": "X", "algo": "a2c"},
            ValueError,
            "algo must be one of 'auto', .*'td3', 'tqc', 'crossq', got 'a2c'",
        ),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"c\.yaml is not readable YAML, line 1: expected"),
        ("seed: 1\nsteps: 9\nseed: 2\n", r"c\.yaml is not readable YAML, line 3: 'seed' is given twice"),
        ("- 1\n- 2\n", "must hold a mapping"),
        ("stepps: 3", "c.yaml: unknown setting"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1e4", 1e4), ("-2E+3", -2e3), ("1.5e3", 1.5e3), (".5", 0.5), ("5.", 5.0),
        ("12", 12), ("1_000", 1000), (".inf", float("inf")), ("12e", "12e"), ("1.2.3", "1.2.3"),
        ("'1e4'", "1e4"), ("e5", "e5"), ("true", True), ("~", None),
    ],
)  # fmt: skip
def test_numbers_of_yaml_files_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read = parse_yaml(f"a: {text}")["a"]
    assert read == value
    assert type(read) is type(value)


def test_numbers_take_the_type_that_their_field_declares(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("env_id: X\nsteps: 1e6\ntarget_score: 100\nactivation: none\n")
    config = TrainConfig.from_yaml(tmp_path / "c.yaml")
    assert (config.steps, config.target_score, config.activation) == (1_000_000, 100.0, None)
    assert type(config.steps) is int
    assert type(config.target_score) is float


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config file not found: .*none\.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_settings_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("steps: 1e3"), daemon=True)
    writer.start()
    assert read_yaml(tmp_path / "pipe") == {"steps": 1000.0}
    writer.join()


def test_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "Taxi-v4"])
def test_every_preset_is_a_valid_config(env_id: str) -> None:
    env = gym.make(env_id)
    config = TrainConfig.from_dict({**preset_for(env_id, env), "env_id": env_id})
    assert config.steps >= 100_000


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_every_sac_preset_makes_an_agent(env_id: str) -> None:
    env = gym.make(env_id)
    preset = preset_for(env_id, env, ALGORITHMS["sac"].presets)
    config = TrainConfig.from_dict({**preset, "env_id": env_id, "algo": "sac"})
    agent = make_agent("sac", env, config.hidden_sizes, config.hyperparams)
    assert agent.get_hyperparams().params["learning_starts"] >= 1000


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_every_dqn_preset_makes_an_agent(env_id: str) -> None:
    env = gym.make(env_id)
    preset = preset_for(env_id, env, ALGORITHMS["dqn"].presets)
    config = TrainConfig.from_dict({**preset, "env_id": env_id, "algo": "dqn"})
    agent = make_agent("dqn", env, config.hidden_sizes, config.hyperparams)
    assert agent.get_hyperparams().params["learning_starts"] == 1000


def test_presets_go_from_the_environment_to_its_family_to_its_spaces() -> None:
    class Custom(gym.Env):  # type: ignore[type-arg]
        observation_space = gym.spaces.Box(-1, 1, (3,))
        action_space = gym.spaces.Box(-1, 1, (2,))

    pendulum, mountain = gym.make("Pendulum-v1"), gym.make("MountainCar-v0")
    assert preset_for("Pendulum-v1", pendulum)["hyperparams"]["gamma"] == 0.9
    # The same environment under another name: its family's preset.
    assert preset_for("MyCar-v0", mountain)["steps"] == 300_000
    assert preset_for("Custom-v0", Custom())["normalize_rewards"] is True
    assert reward_threshold(gym.make("CartPole-v1")) == 475.0
    assert reward_threshold(pendulum) is None


def test_dropout_is_below_one() -> None:
    assert TrainConfig("CartPole-v1", dropout=0.99).dropout == 0.99
    for value in (1.0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"dropout must be at least 0\.0 and below 1\.0, got"):
            TrainConfig("CartPole-v1", dropout=value)
    (dropout,) = (f for f in dataclasses.fields(TrainConfig) if f.name == "dropout")
    assert str(kind_of(dropout)) == "≥ 0 and < 1"
