"""Pictures of a search."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import optuna

from optix_fast.serialization import atomic_write_bytes


def plot_search(study: optuna.Study, path: Path, title: str) -> None:
    """Draw the score of every trial, and the best so far, into a PNG file; by Optuna's own visualisation."""
    _draw("plot_optimization_history", study, path, title)


def plot_choices(study: optuna.Study, path: Path, title: str) -> None:
    """Draw the scores over each hyperparameter into a PNG file; by Optuna's own visualisation."""
    _draw("plot_slice", study, path, title)


def _draw(kind: str, study: optuna.Study, path: Path, title: str) -> None:
    import matplotlib

    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        # Optuna calls these functions experimental, and changes the style of all pictures.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        import matplotlib.pyplot as plt
        from optuna.visualization import matplotlib as visualization

        axes = getattr(visualization, kind)(study)
        first = axes if hasattr(axes, "figure") else axes.flat[0]
        figure = first.figure
        try:
            figure.suptitle(title)
            picture = io.BytesIO()
            figure.savefig(picture, dpi=110, format="png", bbox_inches="tight")
        finally:
            plt.close(figure)
    atomic_write_bytes(path, picture.getvalue())
