"""Layers of imports. The checker itself is tried on made-up trees below."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "imlctl"

# A part may import parts of a lower rank, and itself.
RANKS = {
    **dict.fromkeys(("errors", "device", "atomic", "process", "record", "resources"), 0),
    **dict.fromkeys(("image", "core", "mask", "weights"), 1),
    "settings": 2,
    **dict.fromkeys(("inference", "data"), 3),
    **dict.fromkeys(("forge", "pipeline"), 4),
    "evaluate": 5,
    **dict.fromkeys(("scan", "report", "train"), 6),
    "bench": 7,
    **dict.fromkeys(("cli", "__init__"), 8),
    "__main__": 9,
}
# What else is allowed: (importing part, imported module and what lies below it).
BESIDES = (
    ("device", "imlctl.errors"),
    ("atomic", "imlctl.errors"),
    ("resources", "imlctl.errors"),
    ("record", "imlctl.errors"),
    ("record", "imlctl.__version__"),
    ("weights", "imlctl.mask"),  # whose card holds the rule and its rates
    ("weights", "imlctl.core"),  # weights become models
    ("scan", "imlctl.report.preview"),  # which the ledger keeps
    ("cli", "imlctl.__version__"),
    ("weights", "imlctl.__version__"),
    ("report", "imlctl.__version__"),
    ("scan", "imlctl.__version__"),
)
# Kernels are written in triton, which CUDA builds of torch bring along. This file alone imports it,
# and is imported itself when a CUDA tensor arrives.
KERNELS = "core/wkv_triton.py"
# The import names of the dependencies in pyproject.toml, and of its extras.
PACKAGES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "huggingface-hub": "huggingface_hub",
    "pillow-heif": "pillow_heif",
}


@dataclass(frozen=True)
class Import:
    """One imported module, or name of a module."""

    module: str
    line: int
    deferred: bool  # inside a function, or for type checkers only: not run at import


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Yield every import, at whatever depth; `package` resolves relative ones."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, deferred = waiting.pop()
        for module in _modules(node, package):
            yield Import(module, node.lineno, deferred)  # type: ignore[attr-defined]
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += [(child, True) for child in node.body]
            waiting += [(child, deferred) for child in node.orelse]
        else:
            waiting += [(child, deferred or in_function) for child in ast.iter_child_nodes(node)]


def _modules(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: package.count(".") + 2 - level] if level else []
            base = ".".join([*above, *([module] if module else [])])
            # Our own names are resolved, since `from imlctl import core` imports a part.
            return [f"{base}.{a.name}" for a in names] if base.startswith("imlctl") else [base]
        case ast.Call(func=func, args=[ast.Constant(value=str(module)), *_]) if ast.unparse(
            func
        ).endswith(("import_module", "__import__")):
            return [module]
    return []


def _in_kernels(relative: Path, used: Import) -> bool:
    return relative.as_posix() == KERNELS and used.module.split(".")[0] == "triton"


def violations(source: Path) -> list[str]:
    """Return a sentence for each import under `source` that breaks the layers."""
    found = []
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        part = relative.parts[0].removesuffix(".py")
        package = ".".join(["imlctl", *relative.parts[:-1]])
        for used in imports_of(ast.parse(path.read_text("utf-8")), package):
            reason = None if _in_kernels(relative, used) else _objection(part, used)
            found += [f"{relative}:{used.line}: {reason}"] if reason else []
    return found


def _objection(part: str, used: Import) -> str | None:
    names = used.module.split(".")
    if names[0] != "imlctl":
        if part == "core" and names[0] != "torch" and names[0] not in sys.stdlib_module_names:
            return f"core imports {used.module}: only torch and the standard library are allowed"
        return None
    target = names[1] if len(names) > 1 else "__init__"
    if target == part or any(
        part == importer and f"{used.module}.".startswith(f"{module}.")
        for importer, module in BESIDES
    ):
        return None
    if part not in RANKS:
        return f"{part} has no place in the layers"
    # What is no part is a name of the package's own __init__.
    if part == "core" or RANKS[part] <= RANKS.get(target, RANKS["__init__"]):
        return f"{part} may not import {used.module}"
    return None


def undeclared(source: Path, required: set[str], optional: set[str]) -> list[str]:
    """Return a sentence for each third-party import that pyproject.toml does not account for."""
    found = []
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        for used in imports_of(ast.parse(path.read_text("utf-8")), "imlctl"):
            name = used.module.split(".")[0]
            where = f"{relative}:{used.line}"
            if name == "imlctl" or name in sys.stdlib_module_names | required:
                continue
            if _in_kernels(relative, used):
                continue
            if name not in optional:
                found.append(f"{where}: {name} is no dependency")
            elif not used.deferred:
                found.append(f"{where}: {name} is an extra, imported only where it is needed")
    return found


def import_names(requirements: list[str]) -> set[str]:
    """Return what the packages of a requirement list are called in Python."""
    names = {r.split(">")[0].split("[")[0].strip().lower() for r in requirements}
    return {PACKAGES.get(name, name.replace("-", "_")) for name in names}


def test_the_sources_keep_to_their_layers() -> None:
    assert len(list(SOURCE.rglob("*.py"))) > 30  # an empty tree would pass
    assert violations(SOURCE) == []


def test_the_map_for_contributors_shows_the_layers() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| (\d) \| ([^|]+) \|", page)
    shown = {
        name: int(rank) for rank, cell in rows for name in re.findall(r"`(\w+)(?:/|\.py)`", cell)
    }
    assert shown == {name: rank for name, rank in RANKS.items() if not name.startswith("__")}


def test_third_party_imports_are_declared_and_extras_deferred() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    assert undeclared(SOURCE, import_names(project["dependencies"]), import_names(extras)) == []


def test_the_kernels_are_imported_only_where_they_run() -> None:
    module = f"imlctl.{KERNELS.removesuffix('.py').replace('/', '.')}"
    importers = [
        (path.name, used.deferred)
        for path in sorted(SOURCE.rglob("*.py"))
        for used in imports_of(ast.parse(path.read_text("utf-8")), "imlctl")
        if used.module == module
    ]
    assert importers == [("wkv_cuda.py", True)]


def write(tree: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, "utf-8")
    return tree


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("errors.py", "import imlctl.device"),
        ("device.py", "from imlctl import core"),
        ("image/decode.py", "from imlctl.mask.decide import decide"),
        ("image/decode.py", "from imlctl.pipeline import Localizer"),
        ("image/decode.py", "def f():\n    from imlctl.scan import naming"),
        ("image/decode.py", "class A:\n    def f(self):\n        import imlctl.cli"),
        ("image/decode.py", "from ..mask import decide"),
        ("image/deep/decode.py", "from ...mask import decide"),
        ("image/decode.py", "from .. import mask"),
        ("image/decode.py", "import imlctl"),
        ("image/decode.py", "from imlctl import load"),
        ("image/decode.py", "import importlib\nimportlib.import_module('imlctl.mask')"),
        ("image/decode.py", "if TYPE_CHECKING:\n    from imlctl.mask import decide"),
        ("mask/decide.py", "try:\n    import imlctl.image.decode\nexcept ImportError:\n    pass"),
        ("core/wkv.py", "from imlctl.errors import UsageError"),
        ("core/wkv.py", "import numpy as np"),
        ("core/wkv.py", "def f():\n    import torchvision"),
        ("core/wkv.py", "def f():\n    import triton"),
        ("core/wkv.py", "from numpy import zeros"),
        ("weights/load.py", "from imlctl.image.decode import read"),
        ("pipeline.py", "from imlctl.scan.run import scan"),
        ("pipeline.py", "from imlctl.report.html import write"),
        ("train/loop.py", "from imlctl.bench import speed"),
        ("train/loop.py", "from imlctl.scan import naming"),
        ("scan/run.py", "from imlctl.report.html import x"),
        ("bench/speed.py", "from imlctl.cli import app"),
        ("extra/new.py", "from imlctl.errors import UsageError"),
    ],
)
def test_the_checker_sees_what_breaks_the_layers(tmp_path: Path, file: str, text: str) -> None:
    found = violations(write(tmp_path, {file: text}))
    assert len(found) == 1
    assert found[0].startswith(f"{file}:")


def test_the_checker_allows_what_the_layers_allow(tmp_path: Path) -> None:
    tree = {
        "__init__.py": "def load():\n    from imlctl.pipeline import Localizer",
        "errors.py": "from enum import IntEnum",
        "device.py": "import torch\nfrom imlctl.errors import UsageError",
        "image/decode.py": "import numpy\nfrom imlctl import errors\nfrom .photo import Photo",
        "core/wkv.py": "import math, torch.nn\nfrom torch import Tensor\nfrom imlctl.core import a",
        "weights/load.py": "import safetensors\nfrom imlctl.core.efficient_iml import EfficientIML",
        "pipeline.py": "from imlctl.image.decode import read\nfrom imlctl.record import R",
        "scan/run.py": "from imlctl.pipeline import Localizer\nfrom imlctl.report import preview",
        "train/loop.py": "from imlctl.evaluate.score import evaluate\nimport imlctl.weights.load",
        "train/validate.py": "from imlctl.inference import predict",
        "cli/__init__.py": "from imlctl import __version__\nfrom imlctl.scan.run import scan",
    }
    assert violations(write(tmp_path, tree)) == []


def test_the_checker_sees_undeclared_packages(tmp_path: Path) -> None:
    tree = {
        "a.py": "import numpy.linalg\nimport json\nfrom imlctl import errors",
        "b.py": "import ray",
        "c.py": "def f():\n    import ray\nif typing.TYPE_CHECKING:\n    import ray.data",
        "d.py": "def f():\n    import timm",
    }
    assert undeclared(write(tmp_path, tree), {"numpy"}, {"ray"}) == [
        "b.py:1: ray is an extra, imported only where it is needed",
        "d.py:2: timm is no dependency",
    ]
    assert import_names(["opencv-python-headless>=4.10", "torch>=2.4", "Pillow-HEIF>=0.21"]) == {
        "cv2",
        "torch",
        "pillow_heif",
    }
