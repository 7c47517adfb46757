"""Regression guard of speed: works of the app beside plain computations of the same kind, in one process.

    python -m benchmarks.speed.guard
    python -m benchmarks.speed.guard --write

Compares the ratio of processor times with the committed one (``benchmarks/speed/guard_ratios.json``) and
fails when it has grown by more than a half; seconds decide nothing. Everything runs on one thread, work and
reference take turns, and the median over the turns counts, so that a machine that is busy or slow changes
both. A ratio that has grown too much is measured a second time, with more turns, and the lower one counts.

A ratio depends on the kind of processor too: where all are off without a change of the code, renew them there
with ``--write``. With ``--same-processor``, for CI on machines of many kinds, ratios of another processor are
shown and decide nothing. Under a minute. Exit code 0 when all is well, 1 when a work got slower, 2 when a
ratio is missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.common.cells import cpu_name, markdown, parser_of
from benchmarks.speed.guard_work import PAIRS, Pair, Run

RATIOS = Path(__file__).with_name("guard_ratios.json")

LIMIT = 1.5
"""Largest growth of a ratio."""

TURNS = 15

SECOND_LOOK = 3
"""Times as many turns when a ratio has grown too much."""

LEAST_SECONDS = 0.02
"""Of one turn of a work or a reference: shorter ones are repeated within the turn."""

EXIT_SLOWER, EXIT_MISSING = 1, 2


class Finding(NamedTuple):
    """What came of one work; ``growth`` is its ratio over the committed one."""

    name: str
    ratio: float
    growth: float

    @property
    def slower(self) -> bool:
        return self.growth > LIMIT

    @property
    def verdict(self) -> str:
        if self.slower:
            return "SLOWER"
        return "faster: renew with --write" if self.growth < 1 / LIMIT else "ok"


def processor_seconds(run: Run, times: int) -> float:
    """Processor seconds of several runs, each."""
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def repeats_of(run: Run) -> int:
    """Runs that make a turn long enough to be timed; a first one, which loads and builds, does not count."""
    run()
    return max(1, round(LEAST_SECONDS / max(processor_seconds(run, 1), 1e-6)))


def ratio_of(pair: Pair, turns: int) -> float:
    """Median over the turns of the work's time over the mean of the reference's just before and after it."""
    work_repeats, reference_repeats = repeats_of(pair.work), repeats_of(pair.reference)
    before = processor_seconds(pair.reference, reference_repeats)
    ratios = []
    for _ in range(turns):
        taken = processor_seconds(pair.work, work_repeats)
        after = processor_seconds(pair.reference, reference_repeats)
        ratios.append(2 * taken / (before + after))
        before = after
    return median(ratios)


def examine(name: str, make: Callable[[], Pair], committed: float, turns: int) -> Finding:
    """Measure one work, a second time where the first makes it slower than the limit."""
    pair = make()
    ratio = ratio_of(pair, turns)
    if ratio > LIMIT * committed:
        ratio = min(ratio, ratio_of(pair, SECOND_LOOK * turns))
    return Finding(name, ratio, ratio / committed)


def guard(
    pairs: Mapping[str, Callable[[], Pair]], committed: Mapping[str, float], turns: int
) -> tuple[int, list[Finding]]:
    """Exit code, and what came of every work.

    Parameters
    ----------
    pairs : mapping of str to callable
        Makes each work with its reference.
    committed : mapping of str to float
        Ratios to compare with.
    turns : int
    """
    if any(name not in committed for name in pairs):
        return EXIT_MISSING, []
    findings = [examine(name, make, committed[name], turns) for name, make in pairs.items()]
    return EXIT_SLOWER if any(finding.slower for finding in findings) else 0, findings


def table(findings: Iterable[Finding]) -> str:
    """Markdown of the findings."""
    rows = [
        [finding.name, f"{finding.ratio:.3f}", f"{finding.growth:.2f}", finding.verdict]
        for finding in findings
    ]
    return markdown(("work", "ratio to its reference", "to the committed ratio", "verdict"), rows)


def write(path: Path, pairs: Mapping[str, Callable[[], Pair]], turns: int) -> None:
    """Measure all ratios anew and write them, with what they were measured on."""
    ratios = {name: round(ratio_of(make(), turns), 4) for name, make in pairs.items()}
    content = {"processor": cpu_name(), "torch": torch.__version__, "ratios": ratios}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--write", action="store_true", help="renew the ratios instead of comparing")
    parser.add_argument("--only", nargs="+", choices=tuple(PAIRS), default=list(PAIRS))
    parser.add_argument("--ratios", type=Path, default=RATIOS)
    parser.add_argument(
        "--same-processor", action="store_true", help="judge only by ratios of a processor like this one"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    pairs = {name: PAIRS[name] for name in options.only}
    if options.write:
        write(options.ratios, pairs, SECOND_LOOK * TURNS)
        return 0
    content = json.loads(options.ratios.read_text(encoding="utf-8"))
    code, findings = guard(pairs, content["ratios"], TURNS)
    if code == EXIT_MISSING:
        print(f"{options.ratios} lacks a ratio: measure with --write", file=sys.stderr)
        return code
    print(table(findings))
    if options.same_processor and content["processor"] != cpu_name():
        print(f"not judged: the ratios are of {content['processor']}, and this is {cpu_name()}")
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
