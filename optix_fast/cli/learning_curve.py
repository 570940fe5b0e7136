"""The picture of a run: the return of every window over environment steps."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from optix_fast.config import TrainConfig
from optix_fast.serialization import atomic_write_bytes


def plot_learning_curve(path: Path, rows: Sequence[Mapping[str, str]], config: TrainConfig) -> None:
    """Draw it into a PNG file.

    Args:
        path: of the file.
        rows: of progress.csv; a window in which no episode ended is left out.
        config: of the run, for title and target.
    """
    # pyplot would start a window system; the figure class does not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kept = [row for row in rows if row["score"] and math.isfinite(float(row["score"]))]
    steps = [float(row["env_steps"]) for row in kept]
    scores = [float(row["score"]) for row in kept]
    judged = [i for i, row in enumerate(kept) if row.get("evaluated", "1") == "1"]
    width = max(5, len(kept) // 40)
    figure = Figure(figsize=(7.0, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.14, 0.12, 0.83, 0.8))  # a layout engine would draw everything twice
    axes.plot(steps, scores, color="#b9cae3", linewidth=0.9, label="one window")
    axes.plot(
        steps, _smoothed(scores, width), color="#1f4e9c", linewidth=2.0, label=f"mean of {width} windows"
    )
    axes.plot(
        [steps[i] for i in judged], [scores[i] for i in judged], linestyle="", marker="o", markersize=3.0,
        markerfacecolor="white", markeredgecolor="#1f4e9c", markeredgewidth=0.8, label="evaluated",
    )  # fmt: skip
    if config.target_score is not None:
        axes.axhline(config.target_score, color="#b0413e", linestyle="--", linewidth=1.0, label="target")
    if not kept:
        axes.text(0.5, 0.5, "no episode ended", transform=axes.transAxes, ha="center", va="center")
    axes.set_xlim(left=0.0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("mean return of the window's episodes")
    axes.set_title(f"{config.env_id}, {config.algo}, seed {config.seed}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g} k" if x else "0")
    axes.grid(alpha=0.25)
    axes.legend(loc="best", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    atomic_write_bytes(path, picture.getvalue())


def _smoothed(values: Sequence[float], width: int) -> list[float]:
    """The mean of the last `width` values at each."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        means.append(total / min(i + 1, width))
    return means
