"""What is stated in several files agrees, and what is installed is what was tested."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sicnn_app

ROOT = Path(__file__).parents[1]

CUDA_RUNTIME = re.compile(r"nvidia-|cuda-|triton$")
"""Packages that a CUDA build of torch pins by itself."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Canonical package name -> exact version, from the constraints file."""
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "not an exact, local-free version"
    named = [line.split("==") for line in lines]
    assert len({canonicalize_name(name) for name, _ in named}) == len(named), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in named}


def all_requirements(project: dict) -> list[Requirement]:
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (\S+)$"),
        ("CHANGELOG.md", r"^## \[(\d[^]]*)\] - \d{4}-\d\d-\d\d$"),
        ("Dockerfile", r"^ARG VERSION=(\S+)$"),
    ],
)
def test_every_file_states_the_version_of_the_package(file, pattern):
    assert re.search(pattern, read(file), re.MULTILINE).group(1) == sicnn_app.__version__


def test_citation_and_changelog_give_the_same_release_date():
    released = re.search(r"^date-released: (\S+)$", read("CITATION.cff"), re.MULTILINE).group(1)
    assert f"## [{sicnn_app.__version__}] - {released}" in read("CHANGELOG.md").splitlines()


def test_constraints_satisfy_the_ranges_of_every_direct_dependency(project, pins):
    for requirement in all_requirements(project):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} excludes the pinned {version}"


def test_constraints_pin_everything_that_runtime_and_tests_install(project, pins):
    waiting = [
        Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]
    ]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or CUDA_RUNTIME.match(name):
            continue
        seen.add(name)
        assert name in pins, f"{name} is installed but not in constraints.txt"
        needed = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        waiting += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]


def test_no_constraint_is_left_of_a_package_that_nothing_needs(project, pins):
    needed = {canonicalize_name(requirement.name) for requirement in all_requirements(project)}
    for name in pins:
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed |= {canonicalize_name(Requirement(text).name) for text in texts}
    assert set(pins) <= needed


@pytest.mark.parametrize("module", ["sicnn_app.cli", "sicnn_app.simulate.cli"])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_answer_without_loading_torch(project, module, flag):
    assert f"{module}:main" in project["scripts"].values()
    program = (
        f"import sys, {module} as command\n"
        f"sys.argv = ['command', '{flag}']\n"
        "try:\n"
        "    code = command.main()\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        "heavy = {'torch', 'dipy', 'distributed', 'matplotlib', 'nilearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else code)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    if flag == "--version":
        assert sicnn_app.__version__ in process.stdout
    else:
        assert "usage:" in process.stdout.lower()


@pytest.mark.parametrize(("command", "program"), [("main-job", "sicnn-app "), ("tests", "pytest")])
def test_ci_finds_the_commands_of_the_readme(command, program):
    process = subprocess.run([ROOT / ".ci" / "readme_command", command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert program in process.stdout
    assert process.stdout.strip() in read("README.md")


def test_ci_stops_when_the_readme_has_no_such_command(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- command: tests -->\n\nText before the block.\n\n```bash\ntrue\n```\n", encoding="utf-8"
    )
    process = subprocess.run(
        [ROOT / ".ci" / "readme_command", "tests", readme], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "command: tests" in process.stderr


def test_workflow_actions_are_pinned_by_commit():
    uses = [
        line.strip()
        for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]
    assert uses
    assert [line for line in uses if not re.search(r"@[0-9a-f]{40} # v[\d.]+$", line)] == []


def test_the_tool_that_lists_packages_of_an_image_has_exact_versions():
    lines = [line for line in read("docker/sbom_requirements.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert any(line.startswith("cyclonedx-bom==") for line in lines)
