"""What follows each row of a ring, as a state holds it, and whether it can be true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optix_fast.buffers.layout import entry_of, fit_vector

_LINK = np.dtype(np.int64)


class Links(NamedTuple):
    """The links of a ring of `size` rows, E of which are followed by an observation beside the ring.

    Where next_index[i] ≥ 0, row next_index[i] goes on from row i, else extra row ~next_index[i] holds what
    followed.
    """

    next_index: npt.NDArray[np.int64]  # [size]
    successor: npt.NDArray[np.int64]  # [E]: the row that goes on from the one whose o′ is beside, or −1
    pending: npt.NDArray[np.int64]  # of each environment, the number of its last row, or −1
    pushed: int  # rows that ever came

    @classmethod
    def of(cls, state: Mapping[str, Any], capacity: int) -> Links:
        """Those of a state ("next", "successor", "pending", "pushed"); older ones have no "successor".

        Raises:
            ValueError: something is missing, or leads nowhere.
        """
        pushed = int(entry_of(state, "pushed"))
        size = min(pushed, capacity)
        next_index = fit_vector("next", entry_of(state, "next"), _LINK, size)
        pending = np.array(entry_of(state, "pending"), np.int64)
        n_extra = int((next_index < 0).sum())
        if (
            size < 1
            or not np.array_equal(np.sort(~next_index[next_index < 0]), np.arange(n_extra))
            or next_index.max() >= size
            or pending.ndim != 1
            or not ((pending >= -1) & (pending < pushed)).all()
        ):
            raise _lead_nowhere()
        oldest = pushed % capacity if pushed > capacity else 0
        age = (np.arange(size) - oldest) % size
        linked = np.flatnonzero(next_index >= 0)
        live = pending[pending >= max(0, pushed - capacity)] % capacity
        if not (next_index[live] < 0).all() or not (age[next_index[linked]] > age[linked]).all():
            raise _lead_nowhere()
        successor = fit_vector("successor", state.get("successor", np.full(n_extra, -1)), _LINK, n_extra)
        joined = np.flatnonzero(next_index < 0)
        joined = joined[successor[~next_index[joined]] >= 0]
        heirs = successor[~next_index[joined]]
        if not (heirs < size).all() or not (age[heirs] > age[joined]).all():
            raise _lead_nowhere()
        return cls(next_index, successor, pending, pushed)


def _lead_nowhere() -> ValueError:
    return ValueError("ReplayBuffer: the state's links lead nowhere")
