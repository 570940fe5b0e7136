"""Experience: the exponent of importance weights, what a failed update puts back, what is resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dqn_cases import config_of, experience_of, leaves_of

from optix_fast.learners.experience import Experience
from optix_fast.random import RandomStream
from optix_fast.types import EpisodeData


def window(rows: int) -> EpisodeData:
    return EpisodeData(
        observations=np.zeros((rows, 4), np.float32),
        actions=np.zeros(rows, np.int64),
        rewards=np.zeros(rows, np.float32),
        terminated=np.zeros(rows, np.bool_),
        truncated=np.zeros(rows, np.bool_),
        infos=[{}] * rows,
        episode_id=0,
        final_obs=np.zeros(4, np.float32),
    )


@pytest.mark.parametrize(("stored", "beta"), [(0, 0.4), (50, 0.7), (100, 1.0), (1000, 1.0)])
def test_beta_grows_to_one_and_no_further(stored: int, beta: float) -> None:
    config = config_of(per_alpha=0.6, per_beta=0.4, per_beta_steps=100)
    experience = experience_of(config, 60)
    experience.stored = stored
    (draws,) = experience.draws(3, config)
    assert draws.betas is not None
    assert draws.betas.tolist() == pytest.approx([beta] * 3)


def test_failed_updates_put_back_the_first_priority_of_a_row_that_was_drawn_twice() -> None:
    experience = experience_of(config_of(per_alpha=1.0), 60)
    before, greatest = leaves_of(experience), experience.buffer.max_priority

    def learn() -> None:
        with experience.priorities_kept_on_error():
            experience.update_priorities(np.array([3, 4]), torch.tensor([5.0, 6.0]))
            experience.update_priorities(np.array([3]), torch.tensor([9.0]))
            assert experience.buffer.max_priority > greatest
            raise RuntimeError("the third update fails")

    with pytest.raises(RuntimeError, match="the third"):
        learn()
    assert torch.equal(leaves_of(experience), before)
    assert experience.buffer.max_priority == greatest


def test_resumed_experience_keeps_its_share_of_an_update_and_the_greatest_priority() -> None:
    config = config_of(batch_size=4, learning_starts=0, updates_per_step=0.25, per_alpha=1.0)
    straight, resumed = (Experience(config, RandomStream(seed)) for seed in (1, 2))
    # The first four rows fill a batch; nine quarters are two updates and a quarter.
    assert straight.add(window(13), config) == 2
    straight.update_priorities(np.array([3]), torch.tensor([9.0]))
    resumed.load_state_dict(straight.state_dict())
    assert resumed.buffer.max_priority == straight.buffer.max_priority > 9.0 - 1e-6
    for experience in (straight, resumed):
        assert experience.add(window(3), config) == 1
    assert torch.equal(leaves_of(resumed), leaves_of(straight))
