"""The examples in the docstrings, and those of the page on Python, are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import sicnn_app

PACKAGE = Path(sicnn_app.__file__).parent

MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    module = importlib.import_module(name.removesuffix(".__init__"))
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_examples_of_the_page_on_python():
    page = PACKAGE.parent / "docs" / "python.md"
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted > 10
    assert outcome.failed == 0
