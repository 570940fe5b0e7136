"""TQC's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count
from optix_fast.learners.sac.config import PRESETS as SAC_PRESETS
from optix_fast.learners.sac.config import SACConfig


@dataclass(frozen=True)
class TQCConfig(SACConfig):
    """TQC's hyperparameters, under the names that a HyperparamSet uses: those of SACConfig, and

    Args:
        n_critics: networks of the return's distribution (the paper: 5); read by make_agent only.
        n_quantiles: outputs of each of them; read by make_agent only.
        top_quantiles_to_drop_per_net: so many of the targets' n_critics·n_quantiles atoms, times n_critics,
            are left out, the greatest ones; below the critics' number of outputs.
    """

    n_critics: int = count(2)
    n_quantiles: int = count(25)
    top_quantiles_to_drop_per_net: int = count(2, 0)

    def check_dropped(self, quantiles: int) -> None:
        """Raise ValueError unless critics of so many outputs keep one."""
        if self.top_quantiles_to_drop_per_net >= quantiles:
            raise ValueError(
                f"top_quantiles_to_drop_per_net must be below the critics' {quantiles} quantiles, "
                f"got {self.top_quantiles_to_drop_per_net}"
            )


# SAC's; of fewer steps where rl-baselines3-zoo trains TQC for fewer.
PRESETS: dict[str, dict[str, Any]] = {
    **SAC_PRESETS,
    "BipedalWalker": {**SAC_PRESETS["BipedalWalker"], "steps": 500_000},
}
