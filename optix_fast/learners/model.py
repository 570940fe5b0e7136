"""What updates change, of whatever algorithm: networks, their target copies, optimizers, other parameters."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from optix_fast.learners.optimizers import check_optimizer_state, load_optimizer_state, optimizer_state
from optix_fast.learners.tensors import check_matches, module_state, unique_parameters
from optix_fast.networks.dropout import Masks, has_active_dropout
from optix_fast.networks.modes import evaluating_modules, is_batch_norm, restore_modes
from optix_fast.random import RandomStream

N = TypeVar("N", bound=nn.Module)


class Model:
    """The base of the algorithms' models: dataclasses whose attributes are the parts, found by their type.

    An nn.Module is a network, or the target copy of one where `TARGETS` says so; an Optimizer is known by its
    name without "_optimizer"; an nn.Parameter is one that belongs to no network.
    """

    # Attributes that are target copies, and the attributes that they copy.
    TARGETS: ClassVar[Mapping[str, str]] = {}

    # What Dropout draws in the update that is running, see `drawing_masks`.
    masks: ClassVar[Masks | None] = None

    def __post_init__(self) -> None:
        def named(kind: type[Any]) -> list[str]:
            return [name for name, part in vars(self).items() if isinstance(part, kind)]

        # The names only: a user may put another part in the place of one.
        self._networks = [name for name in named(nn.Module) if name not in self.TARGETS]
        self._optimizers = {n: n.removesuffix("_optimizer") for n in named(torch.optim.Optimizer)}
        self._others = named(nn.Parameter)

    def networks(self) -> dict[str, nn.Module]:
        """The trained networks by name."""
        parts = self.__dict__
        return {name: parts[name] for name in self._networks}

    def modules(self) -> dict[str, nn.Module]:
        """The networks and the target networks by name."""
        parts = self.__dict__
        return {name: parts[name] for name in (*self._networks, *self.TARGETS)}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name."""
        parts = self.__dict__
        return {name: parts[attribute] for attribute, name in self._optimizers.items()}

    def other_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that belong to no network, by name."""
        return {name: getattr(self, name) for name in self._others}

    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable, each once."""
        others = [p for p in self.other_parameters().values() if p.requires_grad]
        return [*unique_parameters(self.networks().values()), *others]

    def to_cpu(self) -> None:
        """Move everything but the optimizers' state."""
        for module in self.modules().values():
            module.cpu()
        for parameter in self.other_parameters().values():
            parameter.data = parameter.data.cpu()

    # --- target networks --------------------------------------------------------------------------

    def copy_targets(self) -> None:
        """Make every target network a new copy of what it follows."""
        for target, network in self.TARGETS.items():
            setattr(self, target, target_of(getattr(self, network)))

    def renew_targets(self) -> None:
        """New target networks where a user has given a network other layers; the others stay."""
        self.renew_dropouts()
        for name, follows in self.TARGETS.items():
            target, network = getattr(self, name), getattr(self, follows)
            shapes, own = ([t.shape for t in net.state_dict().values()] for net in (target, network))
            if shapes != own or str(target) != str(network):
                setattr(self, name, target_of(network))

    def renew_dropouts(self) -> None:
        """Put the targets' Dropout layers into the mode of the networks' and give them their p."""
        for name, follows in self.TARGETS.items():
            pairs = zip(getattr(self, name).modules(), getattr(self, follows).modules(), strict=False)
            for copied, own in pairs:
                if isinstance(own, nn.Dropout) and isinstance(copied, nn.Dropout):
                    copied.training, copied.p = own.training, own.p

    @torch.no_grad()
    def move_targets(self, tau: float) -> None:
        """target ← target + tau·(network − target); buffers, such as running statistics, are copied."""
        for name, follows in self.TARGETS.items():
            target, network = getattr(self, name), getattr(self, follows)
            for copied, own in zip(target.parameters(), network.parameters(), strict=True):
                copied.lerp_(own, tau)
            for copied, own in zip(target.buffers(), network.buffers(), strict=True):
                copied.copy_(own)

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copies of all of it."""
        return {
            "networks": {name: module_state(module) for name, module in self.modules().items()},
            "evaluating": {name: evaluating_modules(module) for name, module in self.modules().items()},
            "optimizers": {name: optimizer_state(each) for name, each in self.optimizers().items()},
            "parameters": {name: p.detach().clone() for name, p in self.other_parameters().items()},
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise RuntimeError or ValueError unless the state is of the same architecture."""
        for name, module in self.modules().items():
            check_matches(module, state["networks"][name], name)
        for name, optimizer in self.optimizers().items():
            label = name if name == "optimizer" else f"{name} optimizer"
            check_optimizer_state(optimizer, state["optimizers"][name], label)
        for name, parameter in self.other_parameters().items():
            saved = state["parameters"][name]
            if saved.shape != parameter.shape:
                raise RuntimeError(f"{name} has shape {list(saved.shape)}, not {list(parameter.shape)}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave; nothing changes where `check_state` raises. A state of an older
        version leaves the modules in their modes."""
        self.check_state(state)
        for name, module in self.modules().items():
            module.load_state_dict(state["networks"][name])
            if "evaluating" in state:
                restore_modes(module, state["evaluating"][name])
        for name, optimizer in self.optimizers().items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        with torch.no_grad():
            for name, parameter in self.other_parameters().items():
                parameter.copy_(state["parameters"][name])

    @contextmanager
    def drawing_masks(self, stream: RandomStream) -> Iterator[None]:
        """Dropout draws from the stream inside: one number, the seed of `masks`, and none where no Dropout is
        in training mode, or where they draw from `masks` already."""
        networks = self.modules().values()
        if self.masks is not None or not has_active_dropout(networks):
            yield
            return
        seed = int(stream.integers(0, 2**63 - 1, (1,))[0])
        self.__dict__["masks"] = Masks(seed, networks)
        try:
            yield
        finally:
            del self.__dict__["masks"]

    def masked_in_torch(self) -> AbstractContextManager[None]:
        """Torch's Dropout draws `masks` inside."""
        return nullcontext() if self.masks is None else self.masks.in_torch()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Everything is as it was if what is done inside fails."""
        before = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            raise


def target_of(network: N) -> N:
    """A copy that nothing trains: its batch norms evaluate, by the statistics that they are given."""
    target = copy.deepcopy(network).requires_grad_(False)
    for module in target.modules():
        if is_batch_norm(module):
            module.eval()
    return target


class LayerWatch:
    """Tells whether a user has given networks other layers or parameters since it was asked last."""

    def __init__(self) -> None:
        self._seen: list[Any] = []

    def changed(self, networks: Iterable[nn.Module]) -> bool:
        """True at the first time, too."""
        modules = (module for network in networks for module in network.modules())
        found = [part for module in modules for part in (module, *module._parameters.values())]
        same = len(found) == len(self._seen) and all(map(operator.is_, found, self._seen))
        self._seen = found
        return not same
