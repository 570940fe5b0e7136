"""Suggestions for names that do not exist here."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# What other libraries call it → what it may be called here; the first known one is meant.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "alpha_lr", "step_size", "actor_lr", "pi_lr"), ("learning_rate",)),
    **dict.fromkeys(("discount", "discount_factor"), ("gamma",)),
    **dict.fromkeys(("gae_lam", "lam", "lambda", "lambda_", "lmbda", "td_lambda"), ("gae_lambda",)),
    **dict.fromkeys(
        ("clip_range", "clip_eps", "clip_epsilon", "eps_clip", "clip_coef", "clip_param", "ppo_clip"),
        ("clip_ratio",),
    ),
    **dict.fromkeys(
        ("ent_coef", "ent_coeff", "entropy_coeff", "entropy_coefficient", "entropy_weight"),
        ("entropy_coef", "log_alpha_init"),
    ),
    **dict.fromkeys(("value_coef", "vf_coeff", "value_loss_coef", "critic_coef"), ("vf_coef",)),
    **dict.fromkeys(("clip_range_vf", "vf_clip", "vf_clip_param", "clip_vloss"), ("value_clip",)),
    **dict.fromkeys(("epochs", "num_epochs", "update_epochs", "num_sgd_iter"), ("n_epochs",)),
    **dict.fromkeys(
        ("batch_size", "mini_batch_size", "sgd_minibatch_size"), ("minibatch_size", "batch_size")
    ),
    **dict.fromkeys(("normalize_advantage", "norm_adv"), ("normalize_advantages",)),
    **dict.fromkeys(("kl_target", "desired_kl"), ("target_kl",)),
    **dict.fromkeys(
        ("grad_clip", "clip_grad", "grad_norm_clip", "max_gradient_norm", "gradient_clip"), ("max_grad_norm",)
    ),
    **dict.fromkeys(
        ("buffer_size", "memory_size", "replay_size", "replay_buffer_size", "capacity"), ("replay_capacity",)
    ),
    **dict.fromkeys(("warmup_steps", "start_steps", "random_steps", "learn_start"), ("learning_starts",)),
    **dict.fromkeys(("train_freq", "train_frequency", "gradient_steps", "utd_ratio"), ("updates_per_step",)),
    **dict.fromkeys(
        ("target_update_interval", "target_network_frequency", "target_network_update_freq"),
        ("target_update_freq",),
    ),
    **dict.fromkeys(("polyak", "soft_update_tau"), ("tau",)),
    **dict.fromkeys(("policy_frequency", "policy_freq", "actor_delay"), ("policy_delay",)),
    **dict.fromkeys(("act_noise", "action_noise", "expl_noise"), ("exploration_noise",)),
    **dict.fromkeys(("policy_noise", "target_policy_noise"), ("target_noise",)),
    **dict.fromkeys(("noise_clip", "policy_noise_clip"), ("target_noise_clip",)),
    **dict.fromkeys(("exploration_initial_eps", "epsilon_start", "eps_start", "start_e"), ("epsilon",)),
    **dict.fromkeys(("exploration_final_eps", "epsilon_end", "eps_end", "end_e"), ("epsilon_min",)),
    **dict.fromkeys(("exploration_fraction", "epsilon_steps"), ("epsilon_decay_steps",)),
    **dict.fromkeys(("prioritized_replay_alpha", "alpha"), ("per_alpha",)),
    **dict.fromkeys(("prioritized_replay_beta", "prioritized_replay_beta0", "beta"), ("per_beta",)),
    **dict.fromkeys(("n_steps", "nstep", "multi_step"), ("n_step",)),
    **dict.fromkeys(("total_timesteps", "timesteps", "n_timesteps", "total_steps", "max_steps"), ("steps",)),
    **dict.fromkeys(("env", "env_name", "environment", "gym_id"), ("env_id",)),
    **dict.fromkeys(("algorithm", "agent", "policy"), ("algo",)),
    **dict.fromkeys(("num_envs", "num_workers", "n_workers"), ("n_envs",)),
    **dict.fromkeys(("num_steps", "window_size", "rollout_length", "horizon"), ("n_steps",)),
    **dict.fromkeys(("net_arch", "hidden", "layers", "hidden_layers"), ("hidden_sizes",)),
    **dict.fromkeys(("normalize", "norm_obs"), ("normalize_observations",)),
}  # fmt: skip
# What hyperparameters are called, here or elsewhere; a configuration has them under `hyperparams`.
_HYPERPARAMETERS = frozenset(_ELSEWHERE) - {"env", "algorithm", "agent", "policy"} | {
    name for names in _ELSEWHERE.values() for name in names
}
# Names that other libraries give an agent and that no algorithm here has.
_ELSEWHERE_SET: dict[str, str] = {
    **dict.fromkeys(
        ("n_steps", "num_steps", "window_size", "rollout_length", "horizon"),
        "the length of a rollout is the pipeline's window_size",
    ),
    **dict.fromkeys(("n_envs", "num_envs"), "the environments are the pipeline's"),
    **dict.fromkeys(("seed", "device", "hidden_sizes", "net_arch"), "it is an argument of the agent"),
}
# Below this likeness a suggestion would be a guess.
_LIKE = 0.6


def unknown_name(what: str, name: object, known: Collection[str]) -> str:
    """One sentence about a name that is not among the known ones.

    It names what other libraries mean by it, or else the nearest known name if there is a near one, and
    lists the known names.

    Args:
        what: kind of name, for example "hyperparameter".
        name: the unknown one.
        known: those that there are.
    """
    text = str(name)
    meant = next((here for here in _ELSEWHERE.get(text.lower(), ()) if here in known), None)
    near = difflib.get_close_matches(text, known, n=1, cutoff=_LIKE)
    if meant is not None:
        hint = f"; it is called {meant!r} here"
    elif "hyperparams" in known and text.lower() in _HYPERPARAMETERS:
        hint = "; hyperparameters belong under 'hyperparams'"
    elif text.lower() in _ELSEWHERE_SET:
        hint = f"; {_ELSEWHERE_SET[text.lower()]}"
    elif near:
        hint = f"; the nearest known one is {near[0]!r}"
    else:
        hint = ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(known)})"
