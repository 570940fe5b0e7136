"""Unknown names: what is meant, and what is not guessed."""

from __future__ import annotations

from dataclasses import fields

import pytest

from optix_fast.agents import DQNConfig, PPOConfig, SACConfig, TD3Config
from optix_fast.config import TrainConfig
from optix_fast.names import unknown_name

KNOWN = {
    kind: [f.name for f in fields(kind)] for kind in (PPOConfig, DQNConfig, SACConfig, TD3Config, TrainConfig)
}


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (PPOConfig, "lr", "learning_rate"),
        (PPOConfig, "clip_range", "clip_ratio"),
        (PPOConfig, "ent_coef", "entropy_coef"),
        (PPOConfig, "batch_size", "minibatch_size"),
        (PPOConfig, "lam", "gae_lambda"),
        (PPOConfig, "clip_range_vf", "value_clip"),
        (DQNConfig, "buffer_size", "replay_capacity"),
        (DQNConfig, "train_freq", "updates_per_step"),
        (DQNConfig, "target_update_interval", "target_update_freq"),
        (DQNConfig, "exploration_final_eps", "epsilon_min"),
        (DQNConfig, "n_steps", "n_step"),
        (SACConfig, "polyak", "tau"),
        (SACConfig, "ent_coef", "log_alpha_init"),
        (TD3Config, "policy_frequency", "policy_delay"),
        (TD3Config, "action_noise", "exploration_noise"),
        (TD3Config, "target_policy_noise", "target_noise"),
        (TD3Config, "noise_clip", "target_noise_clip"),
        (TrainConfig, "total_timesteps", "steps"),
        (TrainConfig, "net_arch", "hidden_sizes"),
    ],
)
def test_what_other_libraries_call_it_is_understood(kind: type, name: str, meant: str) -> None:
    assert f"unknown setting {name!r}; it is called {meant!r} here" in unknown_name(
        "setting", name, KNOWN[kind]
    )


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    assert "; the nearest known one is 'clip_ratio' (known: " in unknown_name(
        "x", "clip_ration", KNOWN[PPOConfig]
    )
    assert unknown_name("x", "banana", ["gamma", "tau"]) == "unknown x 'banana' (known: gamma, tau)"
    assert unknown_name("x", 3, ["gamma", "tau"]) == "unknown x 3 (known: gamma, tau)"


def test_what_belongs_elsewhere_is_said_to() -> None:
    assert "the pipeline's window_size" in unknown_name("x", "n_steps", KNOWN[PPOConfig])
    assert "under 'hyperparams'" in unknown_name("setting", "gamma", KNOWN[TrainConfig])
    assert "under 'hyperparams'" in unknown_name("setting", "lr", KNOWN[TrainConfig])
    with pytest.raises(ValueError, match="unknown setting 'lr'; hyperparameters belong under 'hyperparams'"):
        TrainConfig.from_dict({"env_id": "CartPole-v1", "lr": 1e-3})
