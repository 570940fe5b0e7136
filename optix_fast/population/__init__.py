"""What a run's scores say about it, and about what to do next."""

from optix_fast.population.meta_controller import MetaAction, MetaController
from optix_fast.population.regime_detector import RegimeDetector

__all__ = ["MetaAction", "MetaController", "RegimeDetector"]
