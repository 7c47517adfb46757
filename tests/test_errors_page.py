"""docs/errors.md explains every message: each text that the code can raise or warn with must stand there.

The messages are read from the source, so that a new one without its line in the page fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sicnn_app
from sicnn_app import errors
from sicnn_app.cli.arguments import GROUPS
from sicnn_app.options import Limit
from sicnn_app.settings import options_of

ROOT = Path(sicnn_app.__file__).parent
PAGE = ROOT.parent / "docs" / "errors.md"

CLASSES = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.SicnnAppError)
}
RAISERS = CLASSES | {"_require"}
GAP = "…"
"""What the page writes where a message names a file, a number or a reason."""

MIN_WORDS = 2
"""A message that consists of nearly nothing but what another one says is that other one's line."""


def template(node: ast.expr) -> str:
    """Text of a message with :data:`GAP` for everything that is only known at run time."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return GAP


def tidy(text: str) -> str:
    """Without the marks of Markdown, runs of gaps and line breaks."""
    text = re.sub(r"[`\\]", "", text)
    return re.sub(rf"{GAP}(\W?{GAP})+", GAP, re.sub(r"\s+", " ", text))


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Line and template of every message that a module raises."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name not in RAISERS:
            continue
        text = template(node.args[1] if name == "_require" and len(node.args) > 1 else node.args[0])
        if len(re.findall(r"\w{2,}", text.replace(GAP, " "))) >= MIN_WORDS:
            yield node.lineno, text


def refusals() -> Iterator[tuple[str, str]]:
    """Name and message of every setting with a flag and a limit, whose row holds the parts of it."""
    for kind in GROUPS.values():
        for name, option in options_of(kind).items():
            if option.help and isinstance(option.allowed, Limit):
                yield name, re.sub(r"\{[^}]*\}|\d{4,}", GAP, option.refusal(name))


def every_message() -> list[tuple[str, str]]:
    found = list(refusals())
    for path in sorted(ROOT.rglob("*.py")):
        where = path.relative_to(ROOT.parent).as_posix()
        found += [(f"{where}:{line}", text) for line, text in messages(path.read_text(encoding="utf-8"))]
    return found


def test_messages_are_found():
    assert len(every_message()) > 60
    (found,) = messages('raise DataError(f"{path} holds {n} of" + " them")')
    assert found == (1, f"{GAP} holds {GAP} of them")


@pytest.mark.parametrize(("where", "text"), every_message(), ids=lambda value: value[:60])
def test_the_page_has_the_message(where, text):
    page = tidy(PAGE.read_text(encoding="utf-8"))
    parts = [part.strip(" :;,.()'\"") for part in tidy(text).split(GAP)]
    missing = [part for part in parts if len(part) > 2 and part not in page]
    assert not missing, f"docs/errors.md has no line for {where}: {tidy(text)}"


def said() -> str:
    """Every text in the package, gaps as in the page."""
    texts = [tidy(text) for _, text in refusals()]
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant):
                texts.append(tidy(template(node)))
    return "\n".join(texts)


def test_the_page_has_no_message_that_no_longer_exists():
    texts = said()
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    stale = []
    for row in rows:
        for span in re.findall(r"`([^`]+)`", re.split(r" \| (?!b\| )", row)[0]):
            parts = [part.strip(" :;,.()'\"") for part in tidy(span).split(GAP)]
            stale += [span for part in parts if len(part) > 2 and part not in texts]
    assert not stale


def test_every_exit_code_has_a_section():
    page = PAGE.read_text(encoding="utf-8")
    codes = {getattr(errors, name).exit_code for name in CLASSES}
    assert not [code for code in codes if not re.search(rf"^## Exit code {code}\b", page, re.MULTILINE)]
