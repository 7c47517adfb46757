"""Nothing that a dataset or a work directory holds is executed; read off the source, so that it stays so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sicnn_app

ROOT = Path(sicnn_app.__file__).parent

FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}

OWN_MARKUP = (["css"], ["script"])
"""All that becomes part of a page without being escaped."""


def dangers(source: str) -> Iterator[str]:
    """What a module does that may execute data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN_CALLS or keywords.get("shell") == "True":
            yield name
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{name} of more than weights"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"{name} with pickle"
        if name.endswith("jinja2.Environment") and keywords.get("autoescape") != "True":
            yield f"{name} without escaping"
        if name.endswith("Markup") and [ast.unparse(word) for word in node.args] not in OWN_MARKUP:
            yield f"{name} of something else than our style sheets and programs"


BETWEEN_OWN_PROCESSES = {"cli/task.py": ["pickle"], "pipeline/tasks/processes.py": ["pickle"]}
"""What a process hands to its child, and back, through files in memory that nobody else has open."""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_executes_data(path):
    allowed = BETWEEN_OWN_PROCESSES.get(path.relative_to(ROOT).as_posix(), [])
    assert list(dangers(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "jinja2.Environment(autoescape=False)",
        "markupsafe.Markup(css + text)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
    ],
)
def test_the_rules_can_fail(source):
    assert list(dangers(source))


def test_templates_mark_nothing_as_safe():
    for path in ROOT.rglob("*.j2"):
        text = path.read_text(encoding="utf-8")
        assert "| safe" not in text and "|safe" not in text and "autoescape" not in text, path
