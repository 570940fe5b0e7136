"""One torch thread, as the results are stated."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
