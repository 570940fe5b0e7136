"""The shape of the repository: imports point down, and every op has its whole row."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re

import pytest

from optix_fast import _native

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "optix_fast"

# From the top to the bottom; the parts of one row do not know each other, save where SIDEWAYS says so.
LAYERS = [
    {"__main__"},
    {"cli", "training", "compat"},
    {"trials", "population"},
    {"loop"},
    {"tuners", "agents"},
    {"learners"},
    {"pipelines", "buffers", "networks", "envs", "exploration"},
    {"ops"},
    {"random"},
    {"_native", "reference"},
    {"config", "presets"},
    {"serialization"},
    {"types", "names", "locks", "leftovers", "algorithms", "fields", "optimizers"},
    {"_C", "_build_mode"},
]
RANK = {part: len(LAYERS) - i for i, layer in enumerate(LAYERS) for part in layer}
SIDEWAYS = {("exploration", "envs"), ("pipelines", "envs")}
CONFIG_USERS = {"cli", "training", "trials", "loop"}

# Ops that are not functions of optix_fast.ops have their public face, their reference and their test where
# they are used: the random stream in a module that every layer may import, the dense layers and acting in the
# learners, the replay ring in the buffers.
PUBLIC = {
    "random": "optix_fast/random.py",
    "mlp": "optix_fast/learners/native/networks.py",
    "act": "optix_fast/learners/native/acting.py",
    "replay": "optix_fast/buffers/ring.py",
}
REFERENCE = {"mlp": "optix_fast/networks/mlp.py", "act": "optix_fast/learners/policy.py"}
TESTS = {
    "random": "tests/test_random.py",
    "mlp": "tests/agents/test_native_mlp.py",
    "act": "tests/agents/test_native_act.py",
    "replay": "tests/buffers/test_native_replay.py",
}


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: pathlib.Path) -> set[str]:
    """The top-level parts of the package that a file imports, for anything but type annotations."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    for_types_only = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in nodes:
        if node in for_types_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "optix_fast" else [module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("optix_fast.")}
    return {
        name
        for name in found
        if (PACKAGE / name).exists() or name in RANK or (PACKAGE / f"{name}.py").exists()
    }


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] != "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    source = part_of(path)
    assert source in RANK, f"{source} has no layer: give it one in tests/test_layout.py and in the design"
    for target in imports_of(path) - {source}:
        assert target in RANK, f"{source} imports {target}, which has no layer"
        if target in ("config", "presets"):
            assert source in CONFIG_USERS, f"{source} must not read the run configuration"
        down = RANK[target] < RANK[source] or (source, target) in SIDEWAYS
        assert down, f"{path.relative_to(ROOT)} imports {target}, which is not below {source}"


# ---- the row of an op ---------------------------------------------------------------------------

CMAKE = (ROOT / "CMakeLists.txt").read_text()
# CMake finds the learners by the names of their folders.
LEARNERS = sorted(path.name.removesuffix("_update") for path in (ROOT / "csrc").glob("*_update"))
OPS = {
    name: bool(cuda) for name, cuda in re.findall(r"^optix_fast_add_op\((\w+)( CUDA)?\)", CMAKE, re.MULTILINE)
} | {f"{algo}_update": False for algo in LEARNERS}


def test_every_row_is_built() -> None:
    # A folder without a binding (what the learners share) is a building block, not an op.
    rows = {path.parent.name for path in (ROOT / "csrc").glob("*/*_bind.cpp")}
    assert rows == set(OPS)


@pytest.mark.native
@pytest.mark.parametrize("algo", LEARNERS)
def test_every_learner_is_bound(algo: str) -> None:
    assert callable(getattr(_native.core, f"{algo}_update"))


def row_of(op: str) -> list[str]:
    """Public face, reference and test of an op."""
    algo = op.removesuffix("_update")
    if algo in LEARNERS:
        learner = f"optix_fast/learners/{algo}"
        return [f"{learner}/native.py", f"{learner}/update.py", f"tests/agents/test_native_{algo}.py"]
    return [
        PUBLIC.get(op, f"optix_fast/ops/{op}.py"),
        REFERENCE.get(op, f"optix_fast/reference/{op}.py"),
        TESTS.get(op, f"tests/ops/test_{op}.py"),
    ]


@pytest.mark.parametrize("op", OPS)
def test_row_is_complete(op):
    row = [
        f"csrc/{op}/{op}.h",
        f"csrc/{op}/{op}_cpu.cpp",
        f"csrc/{op}/{op}_bind.cpp",
        *row_of(op),
        f"benchmarks/bench_{op}.py",
    ]
    if OPS[op]:
        row.append(f"csrc/{op}/{op}_cuda.cu")
    assert [path for path in row if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("algo", LEARNERS)
def test_an_update_is_called_alike_in_torch_and_in_the_core(algo):
    # Evaluated: the same name could stand for two types.
    signatures = [
        inspect.signature(
            getattr(importlib.import_module(f"optix_fast.learners.{algo}.{module}"), f"{algo}_update"),
            eval_str=True,
        )
        for module in ("update", "native")
    ]
    assert signatures[0] == signatures[1]
    assert list(signatures[0].parameters) == list(signatures[1].parameters)


@pytest.mark.parametrize("op", OPS)
def test_cuda_source_is_listed(op):
    assert (ROOT / f"csrc/{op}/{op}_cuda.cu").exists() == OPS[op]


@pytest.mark.parametrize("op", OPS)
def test_contract_says_what_how_and_in_which_order(op):
    header = (ROOT / f"csrc/{op}/{op}.h").read_text()
    comment = header.split("#pragma once")[0]
    assert "CPU:" in comment
    assert f"{op}" in header
    assert "_cpu(" in header


def test_kernels_know_neither_python_nor_torch_nor_the_cpp_library():
    # An inline function of the C++ library has one name for all instruction sets, so the linker could pick
    # the AVX-512 copy for the portable path (csrc/simd_path.h).
    # What is allowed exists at compile time only.
    allowed = {"cstddef", "cstdint", "type_traits", "utility", "immintrin.h"}
    kernel_only = {ROOT / "csrc" / name for name in ("simd.h", "simd_math.h", "simd_path.h")}
    for folder in (ROOT / "csrc").iterdir():
        if folder.is_dir():
            kernel_only |= {p for p in folder.iterdir() if p.suffix != ".cu" and not p.stem.endswith("_bind")}
    for path in sorted(kernel_only):
        library = set(re.findall(r"#include <(.+?)>", path.read_text()))
        assert library <= allowed, f"{path.relative_to(ROOT)} includes {library - allowed}"
    for path in sorted((ROOT / "csrc").glob("*/*.cu")):
        assert not re.search(r"#include .*(torch|pybind11|Python\.h)", path.read_text()), path
