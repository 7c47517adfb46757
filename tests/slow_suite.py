"""Run the slow tests part by part, and write on their page what came out.

python tests/slow_suite.py             # all parts, about 45 minutes on two cores
python tests/slow_suite.py stops maps  # some: the lines of the others stay as they are
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sicnn_app import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "slow-suite.md"
LIMIT = 25 * 60
"""Seconds after which a part is ended; on two cores that do nothing else each takes less than half of it."""

HEAD = """\
# The slow suite

Tests that take longer than a default run should. They are marked `slow`, left out by default, and run part by
part, each with a limit of {limit} minutes; this page is what the command writes:

    python tests/slow_suite.py [PART ...]

Python {python}, {cores} cores, beside other work. A line stays as it is until its part runs again.

| part | what its tests do | version | date | minutes | outcome |
|---|---|---|---|---|---|
"""

FOOT = """
Slurm and BABS have pages of their own, made by the programs that their slow tests call too
([hpc-checks.md](hpc-checks.md), [babs-check.md](babs-check.md)). So has the container:
`python tests/container/run_container_checks.py --all` on a Docker engine
([last outcome](container-checks.md)), and `python tests/container/run_unprivileged_checks.py`
with Charliecloud and bubblewrap ([last outcome](unprivileged-checks.md)). Damaged datasets and examples
that nobody has seen yet are tried every week, by `.github/workflows/explore.yml`.
"""


@dataclass(frozen=True)
class Part:
    """Test files that run together, and what the slow tests in them do."""

    does: str
    files: tuple[str, ...]
    one_by_one: bool = False
    """Times are compared, which a test beside would disturb."""


PARTS = {
    "stops": Part(
        "kills with SIGKILL at chosen and at random steps, kill after kill, SIGTERM at random steps",
        ("pipeline/test_resume.py",),
    ),
    "participants": Part(
        "signals to many participants at once; Dask workers, children and schedulers killed at work",
        ("pipeline/test_many_participants.py",),
    ),
    "together": Part(
        "eight processes on eight participants, several on one; small disks that fill up",
        ("pipeline/test_concurrency.py", "test_refused_inputs.py"),
    ),
    "maps": Part(
        "the main job against the truth, the accuracy targets of SI-CNN, measured abdomens",
        ("test_end_to_end.py", "test_real_data.py", "sicnn/test_accuracy.py", "sicnn/test_ensemble.py"),
    ),
    "resuming": Part("training resumed after every single epoch", ("sicnn/test_resumed_training.py",)),
    "memory": Part(
        "memory needs against measured processes; a series of 531 MB below `--mem 0.8`",
        ("system/test_memory.py", "sicnn/test_little_memory.py", "lsq/test_lsq_estimate.py"),
    ),
    "preprocessing": Part(
        "motion at several noise levels; denoising and masks of whole abdomens",
        ("preprocess/test_motion.py", "preprocess/test_body_parts.py"),
    ),
    "damage": Part("a thousand damaged datasets", ("fuzz/test_fuzz.py",)),
    "clusters": Part(
        "six participants on a real Slurm; the jobs of BABS", ("hpc/test_slurm.py", "hpc/test_babs.py")
    ),
    "commands": Part(
        "the commands of the pages on scaling, containers and clusters as they are written",
        ("test_documented_commands.py",),
    ),
    "benchmarks": Part(
        "the guard against a slower training; the stages of a measured run",
        ("benchmarks/test_guard.py", "benchmarks/test_speed.py"),
        one_by_one=True,
    ),
}


def run_part(part: Part) -> tuple[bool, str]:
    """Run the slow tests of a part; whether all is well, and the outcome in words."""
    files = [str(ROOT / "tests" / name) for name in part.files]
    command = [sys.executable, "-m", "pytest", "-m", "slow", "--durations=10", *files]
    command += ["--numprocesses=0"] if part.one_by_one else []
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        print(said)
        return False, "ended by its limit"
    print(said, flush=True)
    counts = re.findall(r"(\d+ (?:passed|failed|skipped|errors?))\b", said.rstrip().rpartition("\n")[2])
    return process.returncode == 0, ", ".join(counts) or f"pytest ended with {process.returncode}"


def commit() -> str:
    """The commit of the checkout, and whether anything besides the page differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{PAGE.relative_to(ROOT)}")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def written_lines() -> dict[str, str]:
    """Lines of the page by the name of their part."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return {found[1]: found[0] for found in re.finditer(r"^\| (\w+) \|.*\n", text, re.MULTILINE)}


def write_page(lines: dict[str, str]) -> None:
    """Write the page from the lines of the parts that have run."""
    head = HEAD.format(limit=LIMIT // 60, python=platform.python_version(), cores=os.cpu_count())
    PAGE.write_text(head + "".join(lines[name] for name in PARTS if name in lines) + FOOT, encoding="utf-8")


def main() -> int:
    """Run the parts and write the page; 0 when all passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    good, made_of = True, f"{__version__} ({commit()})"
    for name in chosen:
        part, started = PARTS[name], time.monotonic()
        passed, outcome = run_part(part)
        minutes = (time.monotonic() - started) / 60
        today = datetime.datetime.now(datetime.UTC).date()
        line = f"| {name} | {part.does} | {made_of} | {today} | {minutes:.1f} | {outcome} |\n"
        write_page(written_lines() | {name: line})
        print(f"=== {name}: {outcome}, {minutes:.1f} minutes", flush=True)
        good = good and passed
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
