"""Imports go one way: cli -> workflow -> siblings -> ivim; leaves import nothing above them.

Written rules drift, so the imports of every module are read and held against the tables below.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sicnn_app

PACKAGE = "sicnn_app"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("workflow",),
    ("tasks",),
    ("study", "assess"),
    ("processing",),
    ("group",),
    ("fingerprints", "conventional"),
    ("planned",),
    ("report",),
    ("bids", "preprocess", "sicnn", "lsq", "simulate"),
    ("ivim",),
)
"""From top to bottom; a module imports from layers below its own, and from its own package."""

LEAVES = (
    "__init__",
    "errors",
    "files",
    "formats",
    "settings",
    "arguments",
    "record",
    "device",
    "caches",
    "cgroups",
    "checkpoints",
    "console",
    "locks",
    "memory",
    "streams",
    "surroundings",
)
"""Anyone may import these."""

LEAF_IMPORTS = ("__init__", "errors", "files", "formats", "settings")
"""All of ours that a leaf may import."""

FRONT_ENDS = ("simulate.cli", "tasks.child")
"""Programs that live in the package they belong to, and stand as high as ``cli`` does."""

ONLY = {
    "simulate": ("bids", "ivim", "errors", "files", "locks", "__init__"),
    "report": ("bids", "ivim", "errors", "files", "formats", "__init__"),
    "group": ("bids", "report", "ivim", "fingerprints", "errors", "files", "formats", "__init__"),
}
"""Packages held to less than their layer allows: making data stays apart from processing it, and so do
showing and gathering what was made of them."""

TORCH_ANYWHERE = ("sicnn", "lsq", "device")
TORCH_IN_FUNCTIONS = ("ivim/signal.py", "checkpoints.py")

RANK = {name: rank for rank, names in enumerate(reversed(LAYERS)) for name in names}


@dataclass(frozen=True)
class Import:
    """One imported module; ``deferred`` when it happens in a function or for type checkers only."""

    module: str
    line: int
    deferred: bool


def imports_of(path: Path, module: str) -> Iterator[Import]:
    """Every import of a source file, relative ones resolved; ``from a import b`` gives ``a.b``."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            yield from (Import(f"{base}.{alias.name}", node.lineno, deferred) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, deferred)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, deferred or inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def part_of(module: str, known: set[str]) -> str:
    """The package or top-level module that ``sicnn_app.x.y`` belongs to: ``x``, ``cli`` or ``__init__``."""
    parts = module.split(".")
    if ".".join(parts[1:3]) in FRONT_ENDS:
        return "cli"
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def may_import(importer: str, imported: str) -> bool:
    """Whether one part of the app may import another."""
    if importer == imported:
        return True
    if importer in LEAVES:
        return imported in LEAF_IMPORTS
    if importer in ONLY:
        return imported in ONLY[importer]
    return imported in LEAVES or RANK[imported] < RANK[importer]


def may_import_torch(source: str, part: str, deferred: bool) -> bool:
    """Whether a source file, given relative to the package, may import torch there."""
    return part in TORCH_ANYWHERE or (source in TORCH_IN_FUNCTIONS and deferred)


def violations(root: Path) -> list[str]:
    """One line per import that breaks a rule, and per part that no table knows."""
    parts = {path.stem if path.is_file() else path.name for path in root.iterdir() if holds_code(path)}
    found = [f"{part}: not in LAYERS or LEAVES" for part in sorted(parts - set(RANK) - set(LEAVES))]
    for path in sorted(root.rglob("*.py")):
        source = path.relative_to(root).as_posix()
        names = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        module = ".".join(names[:-1] if path.name == "__init__.py" else names)
        part = "cli" if ".".join(names[1:]) in FRONT_ENDS else names[1]
        for imported in imports_of(path, module):
            top = imported.module.split(".")[0]
            if top == "torch" and not may_import_torch(source, part, imported.deferred):
                found.append(f"{source}:{imported.line}: imports torch")
            if top == PACKAGE and part in set(RANK) | set(LEAVES):
                target = part_of(imported.module, parts)
                if target in set(RANK) | set(LEAVES) and not may_import(part, target):
                    found.append(f"{source}:{imported.line}: {part} imports {target}")
    return found


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" if path.is_file() else any(path.rglob("*.py"))


def make_tree(root: Path, files: dict[str, str]) -> Path:
    """Write a package with the given extra files over a minimal clean one."""
    clean = {
        "__init__.py": '__version__ = "1"\n',
        "errors.py": "import math\n",
        "cli.py": "from sicnn_app import __version__, errors\n\ndef main():\n    from .workflow import run\n",
        "workflow.py": "from sicnn_app.bids import load\nfrom sicnn_app.lsq.estimate import estimate\n",
        "device.py": "import torch\nfrom sicnn_app.errors import DeviceError\n",
        "bids/__init__.py": "",
        "bids/load.py": "from sicnn_app.ivim import series\nfrom . import names\n",
        "bids/names.py": "import re\n",
        "lsq/__init__.py": "",
        "lsq/estimate.py": "import torch\nfrom ..ivim.signal import signal\nfrom sicnn_app import device\n",
        "ivim/__init__.py": "",
        "ivim/series.py": "from sicnn_app.errors import DataError\n",
        "ivim/signal.py": "def signal():\n    import torch\n",
    }
    for name, text in (clean | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_imports_of_the_app_go_one_way():
    assert violations(Path(sicnn_app.__file__).parent) == []


def test_a_command_may_import_what_lies_below_it(tmp_path):
    files = {"simulate/cli.py": "from sicnn_app.bids import load\nfrom sicnn_app import workflow\n"}
    assert violations(make_tree(tmp_path / PACKAGE, files)) == []


def test_a_clean_tree_has_no_violation(tmp_path):
    assert violations(make_tree(tmp_path / PACKAGE, {})) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"bids/load.py": "import sicnn_app.lsq.estimate\n"}, "bids/load.py:1: bids imports lsq"),
        ({"bids/load.py": "from ..lsq import estimate\n"}, "bids/load.py:1: bids imports lsq"),
        ({"bids/load.py": "from .. import lsq\n"}, "bids/load.py:1: bids imports lsq"),
        (
            {"bids/load.py": "def f():\n    from sicnn_app.lsq import estimate\n"},
            "bids/load.py:2: bids imports lsq",
        ),
        ({"ivim/series.py": "from sicnn_app import bids\n"}, "ivim/series.py:1: ivim imports bids"),
        (
            {"lsq/estimate.py": "from sicnn_app.workflow import run\n"},
            "lsq/estimate.py:1: lsq imports workflow",
        ),
        ({"workflow.py": "import sicnn_app.cli\n"}, "workflow.py:1: workflow imports cli"),
        ({"errors.py": "from sicnn_app.ivim import maps\n"}, "errors.py:1: errors imports ivim"),
        ({"errors.py": "from sicnn_app import device\n"}, "errors.py:1: errors imports device"),
        (
            {"simulate/phantom.py": "from sicnn_app.lsq import estimate\n"},
            "simulate/phantom.py:1: simulate imports lsq",
        ),
        (
            {"simulate/phantom.py": "from sicnn_app import device\n"},
            "simulate/phantom.py:1: simulate imports device",
        ),
        (
            {"simulate/cli.py": "", "simulate/phantom.py": "from sicnn_app.simulate import cli\n"},
            "simulate/phantom.py:1: simulate imports cli",
        ),
        ({"simulate/cli.py": "import torch\n"}, "simulate/cli.py:1: imports torch"),
        ({"group/page.py": "from sicnn_app.lsq import fit\n"}, "group/page.py:1: group imports lsq"),
        (
            {"group/page.py": "", "report/html.py": "from sicnn_app import group\n"},
            "report/html.py:1: report imports group",
        ),
        ({"report/html.py": "def f():\n    import torch\n"}, "report/html.py:2: imports torch"),
        ({"bids/load.py": "from torch import nn\n"}, "bids/load.py:1: imports torch"),
        ({"cli.py": "import torch.cuda\n"}, "cli.py:1: imports torch"),
        ({"ivim/signal.py": "import torch\n"}, "ivim/signal.py:1: imports torch"),
        ({"ivim/series.py": "def f():\n    import torch\n"}, "ivim/series.py:2: imports torch"),
        ({"helpers.py": "import re\n"}, "helpers: not in LAYERS or LEAVES"),
        ({"extra/deep/thing.py": "import re\n"}, "extra: not in LAYERS or LEAVES"),
    ],
)
def test_a_violation_is_found(tmp_path, files, expected):
    assert violations(make_tree(tmp_path / PACKAGE, files)) == [expected]
