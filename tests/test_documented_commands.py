"""The commands in the pages on containers, clusters and scaling run as they are written.

Every fenced block of bash in these pages has a mark right above it:

    <!-- runs: here -->             always; so it has to be quick
    <!-- runs: here, slowly -->     with -m slow
    <!-- runs: docker -->           where an engine answers and has the image sicnn-app:cpu; slow
    <!-- runs: slurm -->            on a Slurm that is set up for it, until its jobs have ended; slow
    <!-- runs: not here, REASON -->

``/data`` stands for a copy of ``bids_examples/abdomen`` and ``/out`` for an empty folder.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from app_runs import EXAMPLES, ROOT, environment
from local_slurm import local_slurm, missing

PAGES = [ROOT / "docs" / name for name in ("hpc.md", "docker.md", "scaling.md")]

MARK = re.compile(r"<!-- runs: (here|here, slowly|docker|slurm|not here, \S.*) -->")

IMAGE = "sicnn-app:cpu"

LONGEST = 600.0
"""Seconds in which the jobs of a block have to end."""


@dataclass(frozen=True)
class Block:
    """A block of bash in a page.

    Attributes
    ----------
    page : str
    line : int
        Of its first command.
    mark : str or None
        What stands in the mark right above it; None without one.
    text : str
    """

    page: str
    line: int
    mark: str | None
    text: str


def blocks_of(page: str, text: str) -> list[Block]:
    """All blocks of bash in the text of a page."""
    lines, found, above = text.splitlines(), [], ""
    position = 0
    while position < len(lines):
        line = lines[position]
        if line.startswith("```"):
            end = next(i for i in range(position + 1, len(lines)) if lines[i].startswith("```"))
            if line.removeprefix("```").strip() in ("bash", "sh", "shell"):
                mark = MARK.fullmatch(above)
                content = "\n".join(lines[position + 1 : end]) + "\n"
                found.append(Block(page, position + 2, mark[1] if mark else None, content))
            position = end
        if lines[position].strip():
            above = lines[position].strip()
        position += 1
    return found


BLOCKS = [block for page in PAGES if page.exists() for block in blocks_of(page.name, page.read_text("utf-8"))]


def marked(mark: str) -> list:
    """The blocks with a mark, as parameters of a test."""
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in BLOCKS if block.mark == mark]


@pytest.fixture
def run(tmp_path):
    """Runs a block in a folder that looks like the checkout; gives the folder."""
    data, out, here = tmp_path / "data", tmp_path / "out", tmp_path / "here"
    shutil.copytree(EXAMPLES / "abdomen", data)
    for folder in (out, here):
        folder.mkdir()
    # A container may work as another user.
    out.chmod(0o777)
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (here / path.name).symlink_to(path)

    def run(block: Block, *, folder: Path = here, **variables: str) -> Path:
        text = re.sub(
            r"(?<![\w./-])/(data|out)(?![\w.-])", lambda found: f"{tmp_path}/{found[1]}", block.text
        )
        path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-u", "-c", text],
            cwd=folder,
            env=environment(PATH=path, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block.page}:{block.line}\n{text}\n{done.stdout}{done.stderr}"
        return folder

    return run


def no_image() -> str | None:
    """Why nothing can be run in a container here; None where it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    asked = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, text=True)
    return None if asked.returncode == 0 else asked.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("block", [pytest.param(block, id=f"{block.page}:{block.line}") for block in BLOCKS])
def test_every_block_says_where_it_runs(block):
    assert block.mark, f"docs/{block.page}:{block.line}: no mark right above the block, as {__doc__}"


@pytest.mark.parametrize("block", marked("here"))
def test_a_command_runs_as_written(block, run):
    run(block)


@pytest.mark.slow
@pytest.mark.parametrize("block", marked("here, slowly"))
def test_a_longer_command_runs_as_written(block, run):
    run(block)


@pytest.mark.slow
@pytest.mark.parametrize("block", marked("docker"))
def test_a_command_of_a_container_runs_as_written(block, run):
    if reason := no_image():
        pytest.skip(reason)
    run(block, folder=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=f"no Slurm here: {missing()}")
@pytest.mark.parametrize("block", marked("slurm"))
def test_a_command_of_slurm_runs_as_written_and_its_jobs_succeed(block, run):
    with local_slurm() as found:
        run(block, SLURM_CONF=found["SLURM_CONF"])

        def ask(*words: str) -> str:
            return subprocess.run(words, capture_output=True, text=True, check=True, env=found).stdout

        deadline = time.monotonic() + LONGEST
        while ask("squeue", "--noheader").strip():
            assert time.monotonic() < deadline, ask("squeue")
            time.sleep(1)
        states = re.findall(r"JobState=(\w+)", ask("scontrol", "show", "jobs"))
    assert set(states) == {"COMPLETED"}


def test_blocks_and_their_marks_are_found():
    text = """
<!-- runs: here -->

```bash
one
two
```
```bash
unmarked
```

<!-- runs: not here, it takes a cluster -->
```bash
three
```

<!-- runs: not here -->
```bash
no reason
```
<!-- runs: here -->
```yaml
no: bash
```
"""
    found = [(block.line, block.mark, block.text) for block in blocks_of("page", text)]
    assert found == [
        (5, "here", "one\ntwo\n"),
        (9, None, "unmarked\n"),
        (14, "not here, it takes a cluster", "three\n"),
        (19, None, "no reason\n"),
    ]
