"""Training and evaluation: which layers differ, and evaluating without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from optix_fast.networks.batch_renorm import BatchRenorm
from optix_fast.networks.plan import ACTIVATION_NAMES
from optix_fast.networks.residual import Residual

# Classes whose forward is the same in both modes.
_WITHOUT_MODES = frozenset(
    (*ACTIVATION_NAMES, nn.Linear, nn.Sequential, nn.LayerNorm, nn.RMSNorm, nn.Embedding, Residual)
)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """All modules are in evaluation mode inside, and as before afterwards."""
    with _switched_off(lambda module: type(module) not in _WITHOUT_MODES, networks):
        yield


@contextmanager
def evaluating_batch_norms(*networks: nn.Module) -> Iterator[None]:
    """Batch norms are in evaluation mode inside, and as before afterwards; other modules keep their modes."""
    with _switched_off(is_batch_norm, networks):
        yield


@contextmanager
def _switched_off(is_meant: Callable[[nn.Module], bool], networks: Iterable[nn.Module]) -> Iterator[None]:
    switched = [
        module for network in networks for module in network.modules() if module.training and is_meant(module)
    ]
    for module in switched:
        module.training = False
    try:
        yield
    finally:
        for module in switched:
            module.training = True


def evaluating_modules(network: nn.Module) -> list[str]:
    """The names of the modules in evaluation mode; the network itself is ""."""
    return [name for name, module in network.named_modules() if not module.training]


def restore_modes(network: nn.Module, evaluate: Iterable[str]) -> None:
    """Put these modules into evaluation mode and all others into training mode."""
    names = set(evaluate)
    for name, module in network.named_modules():
        module.training = name not in names


def is_batch_norm(module: nn.Module) -> bool:
    """Whether it normalizes by the statistics of batches."""
    return isinstance(module, _BatchNorm | BatchRenorm)


def works_on_batches(network: nn.Module) -> bool:
    """Whether a batch norm or a Dropout of the network is in training mode, so that an output depends on more
    than its row."""
    return any(
        module.training and (is_batch_norm(module) or (isinstance(module, nn.Dropout) and module.p > 0))
        for module in network.modules()
    )


def check_batch(networks: Iterable[tuple[str, nn.Module]], rows: int) -> None:
    """Raise ValueError where a batch norm in training mode would see a batch of one row; names the layer."""
    if rows <= 1 and (layer := training_batch_norm(networks)):
        raise ValueError(f"{layer} is in training mode and needs at least 2 rows in a batch, got {rows}")


def training_batch_norm(networks: Iterable[tuple[str, nn.Module]]) -> str:
    """The first batch norm in training mode, as "actor.1 (BatchNorm1d)"; empty without one."""
    for name, network in networks:
        for path, module in network.named_modules():
            if module.training and is_batch_norm(module):
                return f"{name}.{path} ({type(module).__name__})" if path else name
    return ""
