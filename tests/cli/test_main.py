"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Done, cli
from same_state import part_with_rows

from optix_fast import __version__
from optix_fast.config import TrainConfig
from optix_fast.loop.resume import find_state
from optix_fast.serialization import load_state

# Four short windows, the last one cut: what they learn does not matter here.
QUICK = ("--steps", "1e3", "--n-envs", "4", "--quiet", "--target-score", "1000", "-p", "n_steps=64")
# Forty windows that hardly learn, so that evaluations become rare.
LONG = (
    "--steps", "5120", "--n-envs", "4", "--quiet", "--target-score", "1000", "-p", "n_steps=32",
    "-p", "learning_rate=1e-9",
)  # fmt: skip
# Episodes of 20 steps (tests/helpers/brief_envs.py) and Pendulum's preset.
BRIEF_PENDULUM = "brief_envs:Brief/Pendulum-v1"


def error_of(done: Done) -> str:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("runs")
    done = cli("train", "CartPole-v1", *QUICK, "--run-dir", "run", cwd=where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("budget: CartPole-v1, 1,000 steps in ")
    assert ", best window's score " in done.stdout
    assert "next: optix-fast eval run" in done.stdout
    return where / "run"


def test_run_directory_holds_what_it_promises(finished: Path) -> None:
    names = {p.name for p in finished.iterdir()}
    assert names == {
        "config.yaml", "progress.csv", "tensorboard", "checkpoints", "best", "last", "learning_curve.png",
        "summary.json",
    }  # fmt: skip
    assert (finished / "learning_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (finished / "best" / "actor.safetensors").is_file()
    assert (finished / "last" / "actor.safetensors").is_file()
    assert len(list((finished / "checkpoints").glob("run_state-*.safetensors"))) == 1


def test_summary_and_csv_agree(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    with (finished / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert summary["stop_reason"] == "budget"
    snapshots = {p.name for p in (finished / "checkpoints").iterdir() if p.is_dir()}
    assert summary["chosen_policy"] in {"last", *snapshots}
    assert summary["env_steps"] == 1000 >= int(rows[-1]["env_steps"])
    scores = [float(r["score"]) for r in rows]
    assert summary["best_score"] == pytest.approx(max(scores), rel=1e-5)
    assert [int(r["env_steps"]) for r in rows] == sorted(int(r["env_steps"]) for r in rows)
    assert all(float(r["policy_loss"]) == float(r["policy_loss"]) for r in rows[1:])


def test_tensorboard_shows_what_the_csv_says(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    with (finished / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    tags = {
        "score": "rollout/ep_rew_mean", "episode_length": "rollout/ep_len_mean",
        "steps_per_second": "time/fps",
        "policy_loss": "train/policy_loss", "explained_var": "train/explained_variance",
    }  # fmt: skip
    for name, tag in tags.items():
        scalars = events.Scalars(tag)
        written = [row for row in rows if row[name] != ""]
        assert [scalar.step for scalar in scalars] == [int(row["env_steps"]) for row in written]
        assert [s.value for s in scalars] == pytest.approx([float(row[name]) for row in written], rel=1e-5)
    judged = [int(row["env_steps"]) for row in rows if row["evaluated"] == "1"]
    assert [scalar.step for scalar in events.Scalars("eval/score")] == judged
    known = ("rollout/", "train/", "time/", "eval/")
    assert all(tag.startswith(known) for tag in events.Tags()["scalars"])


def test_every_window_has_a_row_and_evaluations_are_marked(tmp_path: Path) -> None:
    done = cli("train", "CartPole-v1", *LONG, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["window"]) for row in rows] == list(range(40))
    assert 1 < sum(row["evaluated"] == "1" for row in rows) < 40
    assert all(math.isfinite(float(row["score"])) for row in rows)
    snapshots = json.loads((tmp_path / "run" / "checkpoints" / "manifest.json").read_text())
    best = max(rows, key=lambda row: float(row["score"]))
    assert max(entry["primary_score"] for entry in snapshots) == pytest.approx(float(best["score"]), rel=1e-5)


def test_eval_prints_one_json_object(finished: Path) -> None:
    done = cli("eval", str(finished), "--episodes", "12", "--json", cwd=finished.parent)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"return_mean", "return_std", "episodes"}
    assert result["episodes"] == 12
    assert 8 <= result["return_mean"] <= 500
    again = cli("eval", str(finished), "--episodes", "12", "--json", cwd=finished.parent)
    assert again.stdout == done.stdout
    assert "over 12 episodes" in cli("eval", str(finished), "--episodes", "12", cwd=finished.parent).stdout


def test_eval_of_a_killed_run_uses_its_best_checkpoint(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    run.mkdir()
    for name in ("config.yaml", "progress.csv"):
        (run / name).write_bytes((finished / name).read_bytes())
    assert "holds no saved policy" in error_of(cli("eval", str(run), cwd=tmp_path))
    shutil.copytree(finished / "checkpoints", run / "checkpoints")
    killed = cli("eval", str(run), "--episodes", "10", "--json", cwd=tmp_path)
    manifest = json.loads((run / "checkpoints" / "manifest.json").read_text())
    best = max(manifest, key=lambda entry: entry["primary_score"])
    shutil.copytree(run / "checkpoints" / best["snapshot_dir"] / "weights", run / "best")
    whole = cli("eval", str(run), "--episodes", "10", "--json", cwd=tmp_path)
    assert json.loads(killed.stdout) == json.loads(whole.stdout)


def test_same_seed_same_run(tmp_path: Path) -> None:
    def scores(name: str, seed: str) -> list[str]:
        done = cli("train", "CartPole-v1", *QUICK, "--seed", seed, "--run-dir", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "progress.csv").open() as file:
            return [row["score"] + row["policy_loss"] for row in csv.DictReader(file)]

    assert scores("a", "3") == scores("b", "3") != scores("c", "4")


def test_settings_come_from_preset_then_file_then_options(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("env_id: CartPole-v1\nseed: 5\nn_envs: 2\nhyperparams: {gamma: 0.95}\n")
    done = cli("train", "--config", "c.yaml", *QUICK, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "seed: 5" in text
    assert "n_envs: 4" in text
    assert "gamma: 0.95" in text
    assert "minibatch_size: 256" in text
    # A finished run's config starts the same run again.
    again = cli("train", "--config", "run/config.yaml", "--run-dir", "again", "--quiet", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "progress.csv").read_text().count("\n") == (
        tmp_path / "run" / "progress.csv"
    ).read_text().count("\n")


def test_hyperparameters_and_settings_on_the_command_line(tmp_path: Path) -> None:
    done = cli(
        "train", "CartPole-v1", "--steps", "256", "--n-envs", "4", "--quiet",
        "-p", "learning_rate=1e-4", "--param", "n_steps=32", "--run-dir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = TrainConfig.from_yaml(tmp_path / "run" / "config.yaml")
    assert config.hyperparams["learning_rate"] == 1e-4
    assert config.n_steps == 32
    with (tmp_path / "run" / "progress.csv").open() as file:
        assert {row["learning_rate"] for row in csv.DictReader(file)} - {""} == {"0.0001"}


def test_module_of_the_current_folder_holds_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "envs_of_this_folder.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('Mine-v0', CartPoleEnv, max_episode_steps=20)\n"
    )
    done = cli("train", "envs_of_this_folder:Mine-v0", *QUICK, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert cli("eval", "run", "--episodes", "2", cwd=tmp_path).returncode == 0


SLOW_TUNERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("backoff", "momentum")]


@pytest.mark.parametrize("tuner", ["spsa", "pbt", *SLOW_TUNERS])
def test_tuner_is_used_and_named(tuner: str, tmp_path: Path) -> None:
    done = cli("train", "CartPole-v1", *QUICK, "--tuner", tuner, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"tuner {tuner}\n" in done.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tuner"] == tuner
    with (tmp_path / "run" / "progress.csv").open() as file:
        rates = {row["learning_rate"] for row in csv.DictReader(file)} - {""}
    assert len(rates) > 1


@pytest.mark.parametrize(
    ("vectorization", "n_envs"), [("sync", "1"), ("async", "2"), ("vector_entry_point", "8")]
)
def test_every_vectorization_trains(vectorization: str, n_envs: str, tmp_path: Path) -> None:
    done = cli(
        "train", "CartPole-v1", "--steps", "128", "--quiet", "--n-envs", n_envs, "-p", "n_steps=16",
        "--vectorization", vectorization, "--run-dir", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best").is_dir()


def test_vector_kwargs_reach_the_vector_environment(tmp_path: Path) -> None:
    where = ("--steps", "32", "--quiet", "--n-envs", "2", "-p", "n_steps=16", "--run-dir", "run")
    for vectorization, kwargs in (
        ("sync", "copy: false"),
        ("async", "shared_memory: false"),
        ("vector_entry_point", "sutton_barto_reward: true"),
    ):
        options = ("--vectorization", vectorization, "-p", f"vector_kwargs={{{kwargs}}}")
        done = cli("train", "CartPole-v1", *where, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "run")
    options = ("--vectorization", "sync", "-p", "vector_kwargs={threads: 2}")
    assert "threads" in error_of(cli("train", "CartPole-v1", *where, *options, cwd=tmp_path))


def test_version_params_and_narrow_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("--version", cwd=tmp_path).stdout == f"optix-fast {__version__}\n"
    assert "clip_ratio" in cli("params", "ppo", cwd=tmp_path).stdout
    monkeypatch.setenv("COLUMNS", "60")
    for command in ((), ("train",), ("eval",), ("params",), ("doctor",)):
        done = cli(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert max(map(len, done.stdout.splitlines())) <= 60
        assert "..." not in done.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], pytest.param(["params", "ppo"], marks=pytest.mark.slow)]
)
def test_reader_that_goes_away_gets_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "optix_fast", *arguments],
        cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_help_needs_neither_torch_nor_gymnasium(tmp_path: Path) -> None:
    code = (
        "import sys; from optix_fast.cli.main import main; sys.argv = ['optix-fast', 'train', '--help']\n"
        "try: main()\nexcept SystemExit: print(sorted({'torch', 'gymnasium', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_doctor_reports_versions_core_and_reasons(tmp_path: Path) -> None:
    done = cli("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("optix_fast", "torch", "simd", "devices", "what runs"):
        assert name in done.stdout or (name == "simd" and "not in use" in done.stdout)
    assert __version__ in done.stdout


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPolle-v1",), "CartPolle"),
        (("CartPole-v1", "--steps", "0"), "steps must be at least 1, got 0"),
        (("CartPole-v1", "--steps", "many"), "--steps must be a whole number, got 'many'"),
        (("CartPole-v1", "-p", "lr"), "-p takes NAME=VALUE, for example -p learning_rate=1e-3; got 'lr'"),
        (
            ("CartPole-v1", "-p", "gama=0.9"),
            "unknown setting or hyperparameter of ppo 'gama'; the nearest known one is 'gamma'",
        ),
        (("CartPole-v1", "--seed", "1", "-p", "seed=2"), "--seed and -p seed say the same: give one of them"),
        (("CartPole-v1", "--algo", "a2c"), "algo must be one of"),
        (("CartPole-v1", "--vectorization", "threads"), "vectorization must be one of"),
        (("CartPole-v1", "--device", "cuda:99"), "cuda:99"),
        (("Acrobot-v1", "--vectorization", "vector_entry_point"), "Acrobot-v1"),
        (("CartPole-v1", "--config", "none.yaml"), "config file not found"),
        ((), "name an environment"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    assert message in error_of(cli("train", *arguments, "--run-dir", "run", cwd=tmp_path))
    assert not (tmp_path / "run").exists()


def test_unusable_action_space_and_nan_reward_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_envs.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Base(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, seed=None, options=None):\n"
        "        super().reset(seed=seed); return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        return np.zeros(2, np.float32), self.reward, False, False, {}\n"
        "class Nan(Base):\n    reward = float('nan')\n"
        "class Words(Base):\n    reward = 0.0\n    action_space = gym.spaces.Text(3)\n"
        "gym.register('Nan-v0', Nan)\ngym.register('Words-v0', Words)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for env_id, message in (("Nan-v0", "reward"), ("Words-v0", "needs a Discrete, MultiDiscrete")):
        done = cli("train", f"broken_envs:{env_id}", "--run-dir", "run", "--quiet", cwd=tmp_path)
        assert message in error_of(done)
        assert not (tmp_path / "run").exists()


def test_environment_whose_episodes_never_end_is_trained_and_nothing_is_played_afterwards(
    tmp_path: Path,
) -> None:
    (tmp_path / "endless_envs.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Endless(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gym.spaces.MultiBinary(3)\n"
        "    steps = 0\n"
        "    def reset(self, seed=None, options=None):\n"
        "        super().reset(seed=seed); return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.steps += 1\n"
        "        assert self.steps < 2000, 'played after the training'\n"
        "        return np.zeros(2, np.float32), float(action.sum()), False, False, {}\n"
        "gym.register('Endless-v0', Endless)\n"
    )
    quick = ("--steps", "2048", "--n-envs", "2", "--quiet", "--run-dir", "run")
    done = cli("train", "endless_envs:Endless-v0", *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] == 2048
    assert (tmp_path / "run" / "best" / "actor.safetensors").is_file()


def test_existing_run_directory_is_not_touched(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    done = cli("train", "CartPole-v1", *QUICK, "--run-dir", str(finished), cwd=finished.parent)
    assert "already exists and is not empty" in error_of(done)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_eval_of_something_else_is_an_error(tmp_path: Path, finished: Path) -> None:
    assert "is not a run directory" in error_of(cli("eval", str(tmp_path), cwd=tmp_path))
    assert "is not a run directory" in error_of(cli("eval", "nowhere", cwd=tmp_path))
    assert "episodes" in error_of(cli("eval", str(finished), "--episodes", "0", cwd=tmp_path))


# --- other algorithms -----------------------------------------------------------------------------


def test_dqn_trains_is_evaluated_and_saves_what_it_goes_on_from(tmp_path: Path) -> None:
    quick = ("--steps", "600", "--quiet", "--target-score", "1000", "-p", "learning_starts=200")
    done = cli("train", "CartPole-v1", "--algo", "dqn", *quick, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best" / "q_network.safetensors").is_file()
    agent = part_with_rows(tmp_path / "run" / "checkpoints", "agent")
    assert agent["env_steps"] == 600
    assert len(agent["experience"]["buffer"]["replay"]["rows"]["rewards"]) == 600
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "budget"
    with (tmp_path / "run" / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["loss"]) > 0 and 0.04 < float(last["epsilon"]) < 1
    evaluated = cli("eval", "run", "--episodes", "2", cwd=tmp_path)
    assert evaluated.stdout.startswith("CartPole-v1: return "), evaluated.stderr


def test_dqn_refuses_continuous_actions_in_one_line(tmp_path: Path) -> None:
    done = cli("train", "Pendulum-v1", "--algo", "dqn", "--quiet", cwd=tmp_path)
    assert "dqn needs a Discrete action space, got Box" in error_of(done)
    assert not list(tmp_path.rglob("config.yaml"))


def test_sac_trains_is_evaluated_and_saves_what_it_goes_on_from(tmp_path: Path) -> None:
    quick = ("--steps", "400", "--quiet", "-p", "learning_starts=300", "-p", "n_steps=64")
    done = cli("train", BRIEF_PENDULUM, "--algo", "sac", *quick, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "run" / "best").iterdir()}
    assert {f"{name}.safetensors" for name in ("actor", "critic1", "critic2", "log_alpha")} <= files
    state = load_state(find_state(tmp_path / "run" / "checkpoints", None))
    assert state["agent"]["updates"] == 100
    with (tmp_path / "run" / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["critic_loss"]) > 0 and 0 < float(last["alpha"]) < 1
    evaluated = cli("eval", "run", "--episodes", "2", cwd=tmp_path)
    assert evaluated.stdout.startswith(f"{BRIEF_PENDULUM}: return "), evaluated.stderr


@pytest.mark.parametrize("algo", ["tqc", "crossq"])
def test_a_soft_actor_critic_trains_is_evaluated_and_trains_on(algo: str, tmp_path: Path) -> None:
    quick = ("--steps", "300", "--quiet", "-p", "learning_starts=200")
    done = cli("train", BRIEF_PENDULUM, "--algo", algo, *quick, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "run" / "best").iterdir()}
    assert {f"{name}.safetensors" for name in ("actor", "critics", "log_alpha")} <= files
    evaluated = cli("eval", "run", "--episodes", "2", cwd=tmp_path)
    assert evaluated.stdout.startswith(f"{BRIEF_PENDULUM}: return "), evaluated.stderr
    resumed = cli("train", "--resume", "run", "--steps", "400", "--quiet", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    state = load_state(find_state(tmp_path / "run" / "checkpoints", None))
    assert (state["agent"]["env_steps"], state["agent"]["updates"]) == (400, 200)


def test_td3_trains_is_evaluated_and_trains_on(tmp_path: Path) -> None:
    quick = ("--steps", "300", "--quiet", "-p", "learning_starts=200")
    done = cli("train", BRIEF_PENDULUM, "--algo", "td3", *quick, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "run" / "best").iterdir()}
    assert files == {f"{name}.safetensors" for name in ("actor", "critic1", "critic2")}
    evaluated = cli("eval", "run", "--episodes", "2", cwd=tmp_path)
    assert evaluated.stdout.startswith(f"{BRIEF_PENDULUM}: return "), evaluated.stderr
    resumed = cli("train", "--resume", "run", "--steps", "400", "--quiet", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    state = load_state(find_state(tmp_path / "run" / "checkpoints", None))
    assert (state["agent"]["env_steps"], state["agent"]["updates"]) == (400, 200)
    with (tmp_path / "run" / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert int(last["env_steps"]) == 400 and float(last["critic_loss"]) > 0
