"""What is stated in several files agrees, and what is installed is what was tested."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sicnn_app

ROOT = Path(__file__).parents[1]

CUDA_RUNTIME = re.compile(r"nvidia-|cuda-|triton$")
"""Packages that a CUDA build of torch pins by itself."""

LISTS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
"""Names of the lists with hashes."""

OF_THE_APP = sorted(set(LISTS) - {"audit", "sbom"})
"""Those of one environment; the others are of tools that have one of their own."""


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


def hashed(name: str) -> dict[str, str]:
    """Canonical package name -> exact version, of a list with the hashes of every package's files."""
    lines = re.sub(r"\\\n", " ", read(f"requirements/{name}.txt")).splitlines()
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+--hash=", line)
        requirement = Requirement(text)
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for item in hashes), line[:80]
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None, line[:80]
        assert canonicalize_name(requirement.name) not in found, f"{requirement.name} is listed twice"
        found[canonicalize_name(requirement.name)] = pin.version
    return found


def needed_by(texts: list[str]) -> set[str]:
    """Canonical names of all packages that these requirements bring, as far as their metadata are here."""
    waiting = [Requirement(text) for text in texts]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or CUDA_RUNTIME.match(name):
            continue
        seen.add(name)
        needed = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        waiting += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return seen


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
    needed = needed_by([*project["dependencies"], *project["optional-dependencies"]["test"]])
    assert needed - set(pins) == set(), "installed but not in constraints.txt"


def test_every_constraint_is_also_in_a_list_with_its_hashes(pins):
    listed = {}
    for name in OF_THE_APP:
        listed |= hashed(name)
    assert pins.keys() - listed.keys() == set()


@pytest.mark.parametrize("name", OF_THE_APP)
def test_lists_with_hashes_have_the_versions_of_the_constraints(pins, name):
    versions = {package: version.split("+")[0] for package, version in hashed(name).items()}
    assert {
        package: version for package, version in versions.items() if pins.get(package, version) != version
    } == {}
    free = versions.keys() - pins.keys()
    assert name == "build" or [package for package in free if not CUDA_RUNTIME.match(package)] == []


@pytest.mark.parametrize("torch", ["torch-cpu", "torch-cuda"])
def test_the_lists_of_an_image_hold_everything_that_the_app_needs(project, torch):
    assert needed_by(project["dependencies"]) - (hashed("app") | hashed(torch)).keys() == set()


def test_the_small_image_gets_the_build_of_torch_without_cuda():
    listed = hashed("torch-cpu")
    assert listed["torch"].endswith("+cpu")
    assert [name for name in listed if CUDA_RUNTIME.match(name)] == []


def test_the_backend_that_builds_the_app_is_listed_with_all_it_needs():
    requires = tomllib.loads(read("pyproject.toml"))["build-system"]["requires"]
    listed = hashed("build")
    for requirement in map(Requirement, requires):
        assert requirement.specifier.contains(listed[canonicalize_name(requirement.name)])


@pytest.mark.parametrize(("name", "tool"), [("sbom", "cyclonedx-bom"), ("audit", "pip-audit")])
def test_tools_of_images_and_audits_have_hashes(name, tool):
    assert tool in hashed(name)


def test_images_install_nothing_from_an_index_without_a_hash():
    scripts = [ROOT / "Dockerfile", *sorted((ROOT / "docker").iterdir())]
    calls = [
        line
        for script in scripts
        for line in script.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.search(r"\bpip (install|wheel|download)\b", line) and not line.startswith("#")
    ]
    assert len(calls) == 5
    for line in calls:
        local = "--no-index" in line or "pip wheel --no-deps --no-build-isolation" in line
        assert local or "--require-hashes" in line, line


def test_every_list_is_audited_with_each_change_and_on_a_schedule():
    # The loader of YAML 1.1 takes the key `on` for true.
    audit = yaml.safe_load(read(".github/workflows/audit.yml"))
    assert audit[True]["schedule"][0]["cron"]
    assert any("requirements/*.txt" in step.get("run", "") for step in audit["jobs"]["audit"]["steps"])
    calls = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert calls["audit"]["uses"] == "./.github/workflows/audit.yml"
    assert "audit" in calls["image"]["needs"]


def test_no_torch_is_accepted_whose_checkpoints_can_run_code(project):
    (torch,) = (r for r in all_requirements(project) if r.name == "torch")
    assert not torch.specifier.contains("2.9.1")


def test_no_constraint_is_left_of_a_package_that_nothing_needs(project, pins):
    needed = {canonicalize_name(requirement.name) for requirement in all_requirements(project)}
    for name in pins:
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed |= {canonicalize_name(Requirement(text).name) for text in texts}
    try:
        for extra in ("docs", "dicom"):
            needed_by(project["optional-dependencies"][extra])
    except importlib.metadata.PackageNotFoundError:
        # What an extra that is not installed needs cannot be asked: the resolver's list says it.
        needed |= hashed("development").keys()
    assert set(pins) <= needed


@pytest.mark.parametrize("module", ["sicnn_app.cli.main", "sicnn_app.cli.simulate", "sicnn_app.cli.dicom"])
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
        "heavy = {'torch', 'dipy', 'distributed', 'highdicom', 'matplotlib', 'nilearn'} & set(sys.modules)\n"
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
        if re.match(r"\s*(- )?uses: (?!\./)", line)
    ]
    assert uses
    assert [line for line in uses if not re.search(r"@[0-9a-f]{40} # v[\d.]+$", line)] == []
