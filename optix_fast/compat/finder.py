"""Modules that do not lie on disk: an old package's import paths, made from a table of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import optix_fast


class OldPackage:
    """What an old package offered and what serves it today.

    Args:
        name: of the old package.
        modules: path below it → the names there.
        elsewhere: old name → (module, name), where it is not `optix_fast.<old name>`.
        notes: old name → why it may not be there.
    """

    def __init__(
        self,
        name: str,
        modules: Mapping[str, tuple[str, ...]],
        elsewhere: Mapping[str, tuple[str, str]],
        notes: Mapping[str, str],
    ) -> None:
        self.name, self.modules, self._elsewhere, self._notes = name, modules, elsewhere, notes

    def where(self, name: str) -> str | None:
        """The dotted name that serves an old name, None where there is none."""
        if name in self._elsewhere:
            return ".".join(self._elsewhere[name])
        return f"optix_fast.{name}" if name in optix_fast.__all__ else None

    def note(self, name: str) -> str:
        """Why an old name is not served."""
        return self._notes.get(name, "it is not built yet")

    def get(self, name: str) -> Any:
        """The object that serves an old name.

        Raises:
            ImportError: there is none; it says why.
        """
        where = self.where(name)
        if where is None:
            raise ImportError(
                f"{self.name}.{name} is not served by optix_fast {optix_fast.__version__}: {self.note(name)}",
                name=self.name,
            )
        module, _, attribute = where.rpartition(".")
        return getattr(import_module(module), attribute)


class OldPackageFinder(MetaPathFinder, Loader):
    """Serves an OldPackage's modules under a name.

    Args:
        root: the name that the package is imported by.
        package: what it offers.
    """

    def __init__(self, root: str, package: OldPackage) -> None:
        self.root, self.package = root, package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question."""
        if fullname != self.root and not fullname.startswith(f"{self.root}."):
            return None
        below = self._below(fullname)
        if below not in self.package.modules:
            return None
        prefix = f"{below}." if below else ""
        has_children = any(other.startswith(prefix) and other != below for other in self.package.modules)
        return ModuleSpec(fullname, self, origin="optix_fast.compat", is_package=has_children)

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module: its names are looked up when they are asked for."""
        below, package = self._below(module.__name__), self.package
        names = package.modules[below]

        def get(name: str) -> Any:
            child = f"{below}.{name}" if below else name
            if child in package.modules:
                return import_module(f"{module.__name__}.{name}")
            if name not in names:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            value = package.get(name)
            setattr(module, name, value)
            return value

        module.__doc__ = f"{package.name}{'.' if below else ''}{below}, served by optix_fast."
        served = [name for name in names if package.where(name) is not None]
        vars(module).update(__getattr__=get, __all__=served, __dir__=lambda: sorted(served))

    def _below(self, fullname: str) -> str:
        return fullname[len(self.root) + 1 :]
