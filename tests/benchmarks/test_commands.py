"""Every module of the benchmarks can be imported, and every command says what it does."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path.relative_to(ROOT) for path in sorted((ROOT / "benchmarks").rglob("*.py"))]
MODULES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]
COMMANDS = [
    module.removesuffix(".__main__")
    for path, module in zip(FILES, MODULES, strict=True)
    if "ArgumentParser" in (text := (ROOT / path).read_text(encoding="utf-8")) or "parser_of(__doc__)" in text
]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module):
    importlib.import_module(module)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "benchmarks.common.cells"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_says_what_it_does(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_the_page_of_the_benchmarks_names_every_command():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    told = [name for name in COMMANDS if name != "benchmarks.common.cells"]
    assert [name for name in told if f"`python -m {name}" not in page] == []
