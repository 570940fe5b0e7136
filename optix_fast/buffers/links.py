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

    Where following[i] ≥ 0, row following[i] goes on from row i, else extra row ~following[i] holds what
    followed.
    """

    following: npt.NDArray[np.int64]  # [size]
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
        following = fit_vector("next", entry_of(state, "next"), _LINK, size)
        pending = np.array(entry_of(state, "pending"), np.int64)
        n_extra = int((following < 0).sum())
        if (
            size < 1
            or not np.array_equal(np.sort(~following[following < 0]), np.arange(n_extra))
            or following.max() >= size
            or pending.ndim != 1
            or not ((pending >= -1) & (pending < pushed)).all()
        ):
            raise _lead_nowhere()
        oldest = pushed % capacity if pushed > capacity else 0
        age = (np.arange(size) - oldest) % size
        linked = np.flatnonzero(following >= 0)
        live = pending[pending >= max(0, pushed - capacity)] % capacity
        if not (following[live] < 0).all() or not (age[following[linked]] > age[linked]).all():
            raise _lead_nowhere()
        successor = fit_vector("successor", state.get("successor", np.full(n_extra, -1)), _LINK, n_extra)
        joined = np.flatnonzero(following < 0)
        joined = joined[successor[~following[joined]] >= 0]
        heirs = successor[~following[joined]]
        if not (heirs < size).all() or not (age[heirs] > age[joined]).all():
            raise _lead_nowhere()
        return cls(following, successor, pending, pushed)


def _lead_nowhere() -> ValueError:
    return ValueError("ReplayBuffer: the state's links lead nowhere")
