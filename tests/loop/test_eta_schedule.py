"""The weight of an exploration bonus during a run."""

from __future__ import annotations

from typing import Any

import pytest

from optix_fast.loop.eta_schedule import EtaSchedule
from optix_fast.types import LoopState


class Bonus:
    eta = base_eta = 0.1

    def set_eta(self, eta: float) -> None:
        self.eta = eta


def test_new_best_lowers_it_and_a_plateau_raises_it_to_four_times_the_base() -> None:
    bonus, snapshot = Bonus(), Any
    schedule = EtaSchedule(bonus)
    schedule.on_improvement(snapshot)
    assert bonus.eta == pytest.approx(0.09)
    schedule.on_plateau(1, LoopState.COOLING)
    assert bonus.eta == pytest.approx(0.135)
    for window in range(10):
        schedule.on_plateau(window, LoopState.COOLING)
    assert bonus.eta == pytest.approx(0.4)
    schedule.on_improvement(snapshot)
    assert bonus.eta == pytest.approx(0.36)
