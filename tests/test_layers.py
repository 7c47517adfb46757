"""Imports go one way, as the first lines of every package say; nothing goes in a circle.

Written rules drift, so the imports of every module are read and held against what the packages themselves say
they may import. Torch is heavy and slow to import: only estimation and its device may do so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import sicnn_app

PACKAGE = "sicnn_app"
ROOT = Path(sicnn_app.__file__).parent
BENCHMARKS = ROOT.parent / "benchmarks"

TORCH_ANYWHERE = ("sicnn", "lsq", "system/device.py")
TORCH_IN_FUNCTIONS = ("ivim/signal.py", "system/checkpoints.py")


@dataclass(frozen=True)
class Import:
    """One imported name; ``deferred`` when in a function or, ``typing``, for type checkers only."""

    name: str
    line: int
    deferred: bool
    typing: bool


def imports_of(path: Path, module: str) -> Iterator[Import]:
    """Every import of a source file, relative ones resolved; ``from a import b`` gives ``a.b``."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, deferred: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, deferred, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            names = (f"{base}.{alias.name}" for alias in node.names)
            yield from (Import(name, node.lineno, deferred, typing) for name in names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True, True)
            for child in node.orelse:
                yield from visit(child, deferred, typing)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, deferred or inside, typing)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def modules_of(root: Path) -> dict[str, Path]:
    """Source file of every module below a package's folder."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        names = [root.name, *path.relative_to(root).with_suffix("").parts]
        found[".".join(names[:-1] if path.name == "__init__.py" else names)] = path
    return found


def named(text: str) -> frozenset[str]:
    """Names between double back-ticks."""
    return frozenset(re.findall(r"``(\w+)``", text))


def rules_of(root: Path) -> dict[str, frozenset[str]]:
    """What every part of the app, a package or a module at its top, may import; key ``*``: what all may."""
    text = ast.get_docstring(ast.parse((root / "__init__.py").read_text(encoding="utf-8"))) or ""
    anyone = named(text.partition("Every module may import")[2].partition("They import")[0])
    rules = {"*": anyone | {"__init__"}}
    for path in sorted(root.iterdir()):
        source = path / "__init__.py" if path.is_dir() else path
        if source.suffix != ".py" or not source.exists():
            continue
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        if "May import" in text:
            rules[path.stem] = named(text.partition("May import")[2])
        elif "Imports nothing of the app" in text or path.stem in anyone:
            rules[path.stem] = frozenset()
    # Commands of the interpreter, and the door for Python programs, stand above all.
    return rules | {"__init__": frozenset(), "__main__": frozenset(rules), "api": frozenset(rules)}


def part_of(name: str, rules: dict[str, frozenset[str]]) -> str:
    """The package or top-level module that ``sicnn_app.x.y`` belongs to."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in rules else "__init__"


def may_import_torch(source: str, deferred: bool) -> bool:
    """Whether a source file, given relative to the package, may import torch there."""
    anywhere = source.split("/")[0] in TORCH_ANYWHERE or source in TORCH_ANYWHERE
    return anywhere or (source in TORCH_IN_FUNCTIONS and deferred)


def violations(root: Path) -> list[str]:
    """One line per import that breaks a rule, and per part that does not say what it may import."""
    rules = rules_of(root)
    found = []
    for module, path in modules_of(root).items():
        source = path.relative_to(root).as_posix()
        part = source.split("/")[0].removesuffix(".py")
        if part not in rules:
            found.append(f"{source}: {part} does not say what it may import")
            continue
        allowed = rules[part] | rules["*"] | {part}
        for imported in imports_of(path, module):
            if imported.name.split(".")[0] == "torch" and not may_import_torch(source, imported.deferred):
                found.append(f"{source}:{imported.line}: imports torch")
            target = part_of(imported.name, rules)
            # The door for Python programs is opened by name, on use.
            lazy = source == "__init__.py" and imported.deferred
            if imported.name.split(".")[0] == PACKAGE and target not in allowed and not lazy:
                found.append(f"{source}:{imported.line}: {part} imports {target}")
    return found


def circles(roots: list[Path]) -> list[str]:
    """Modules that import one another when they run; imports in functions count, those for types do not."""
    sources = {module: path for root in roots for module, path in modules_of(root).items()}
    arrows = {}
    for module, path in sources.items():
        names = {imported.name for imported in imports_of(path, module) if not imported.typing}
        reached = {name if name in sources else name.rpartition(".")[0] for name in names}
        arrows[module] = (reached & set(sources)) - {module, module.split(".")[0]}
    # What imports nothing that is left, or is imported by nothing that is left, is in no circle.
    left = set(arrows)
    while True:
        ends = {module for module in left if not arrows[module] & left}
        starts = left - {target for module in left for target in arrows[module]}
        if not ends | starts:
            return sorted(left)
        left -= ends | starts


def package_circles(root: Path) -> list[str]:
    """The same for packages and what they say they may import."""
    rules = {
        name: allowed for name, allowed in rules_of(root).items() if name not in ("*", "api", "__main__")
    }
    left = set(rules)
    while ends := {name for name in left if not (rules[name] - {name}) & left}:
        left -= ends
    return sorted(left)


def make_tree(root: Path, files: dict[str, str]) -> Path:
    """Write a package with the given extra files over a minimal clean one."""
    clean = {
        "__init__.py": '"""App.\n\nEvery module may import ``errors`` and ``system``."""\n',
        "errors.py": "import math\n",
        "cli/__init__.py": '"""Commands.\n\nMay import ``pipeline``."""\n',
        "cli/main.py": "from sicnn_app import errors\n\ndef main():\n    from ..pipeline import run\n",
        "pipeline/__init__.py": '"""Work.\n\nMay import ``bids``, ``lsq`` and ``ivim``."""\n',
        "pipeline/run.py": "from sicnn_app.bids import load\nfrom sicnn_app.lsq.estimate import estimate\n",
        "system/__init__.py": '"""Machine.\n\nImports nothing of the app."""\n',
        "system/device.py": "import torch\nfrom sicnn_app.errors import DeviceError\n",
        "bids/__init__.py": '"""Input.\n\nMay import ``ivim``."""\n',
        "bids/load.py": "from sicnn_app.ivim import series\nfrom . import names\n",
        "bids/names.py": "import re\n",
        "lsq/__init__.py": '"""Fit.\n\nMay import ``ivim``."""\n',
        "lsq/estimate.py": "import torch\nfrom ..ivim.signal import signal\nfrom ..system import device\n",
        "ivim/__init__.py": '"""Model.\n\nImports nothing of the app."""\n',
        "ivim/series.py": "from sicnn_app.errors import DataError\n",
        "ivim/signal.py": "def signal():\n    import torch\n",
    }
    for name, text in (clean | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_imports_of_the_app_go_one_way():
    assert violations(ROOT) == []


def test_what_packages_say_they_may_import_goes_one_way():
    assert package_circles(ROOT) == []


def test_what_a_package_says_it_may_import_it_does_import():
    rules = rules_of(ROOT)
    used: dict[str, set[str]] = {part: set() for part in rules}
    for module, path in modules_of(ROOT).items():
        part = part_of(module, rules)
        used[part] |= {part_of(imported.name, rules) for imported in imports_of(path, module)}
    unused = {
        part: sorted(rules[part] - used[part]) for part in rules if part not in ("*", "api", "__main__")
    }
    assert {part: names for part, names in unused.items() if names} == {}


def test_no_modules_import_one_another():
    assert circles([ROOT, BENCHMARKS]) == []


def test_a_clean_tree_has_no_violation(tmp_path):
    tree = make_tree(tmp_path / PACKAGE, {})
    assert violations(tree) == [] and circles([tree]) == [] and package_circles(tree) == []


def test_modules_that_import_one_another_are_found(tmp_path):
    files = {"bids/names.py": "def f():\n    from sicnn_app.bids import load\n"}
    assert circles([make_tree(tmp_path / PACKAGE, files)]) == ["sicnn_app.bids.load", "sicnn_app.bids.names"]


def test_packages_that_may_import_one_another_are_found(tmp_path):
    files = {"ivim/__init__.py": '"""Model.\n\nMay import ``bids``."""\n'}
    # Those that may import what lies in a circle cannot be put in order either.
    assert {"bids", "ivim"} <= set(package_circles(make_tree(tmp_path / PACKAGE, files)))


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
            {"lsq/estimate.py": "from sicnn_app.pipeline.run import run\n"},
            "lsq/estimate.py:1: lsq imports pipeline",
        ),
        ({"pipeline/run.py": "import sicnn_app.cli\n"}, "pipeline/run.py:1: pipeline imports cli"),
        ({"errors.py": "from sicnn_app.ivim import maps\n"}, "errors.py:1: errors imports ivim"),
        (
            {"system/device.py": "from sicnn_app.ivim import maps\n"},
            "system/device.py:1: system imports ivim",
        ),
        ({"bids/load.py": "from torch import nn\n"}, "bids/load.py:1: imports torch"),
        ({"bids/load.py": "def f():\n    import torch\n"}, "bids/load.py:2: imports torch"),
        ({"cli/main.py": "import torch.cuda\n"}, "cli/main.py:1: imports torch"),
        ({"ivim/signal.py": "import torch\n"}, "ivim/signal.py:1: imports torch"),
        ({"ivim/series.py": "def f():\n    import torch\n"}, "ivim/series.py:2: imports torch"),
        ({"helpers.py": "import re\n"}, "helpers.py: helpers does not say what it may import"),
        ({"extra/thing.py": "import re\n"}, "extra/thing.py: extra does not say what it may import"),
    ],
)
def test_a_violation_is_found(tmp_path, files, expected):
    assert violations(make_tree(tmp_path / PACKAGE, files)) == [expected]
