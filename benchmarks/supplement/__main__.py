"""Regenerate the figures and tables of the SI-CNN supplement on this project's phantom.

    python -m benchmarks.supplement --all --out out/supplement --page docs/supplement.md
    python -m benchmarks.supplement --figure 3 --table snr --out out/supplement
    python -m benchmarks.supplement --all --quick --out out/quick

Figures are written as PNG and SVG, tables as CSV (a row per seed) and Markdown (mean and SD over seeds,
beside the logged numbers), sentences about them to ``verdicts.md``. Results of single computations are kept
in ``cells.jsonl``, so a run that was stopped goes on, and several runs may share a folder: take a fresh one
after changes of the code. ``--page`` writes the page of the documentation and its pictures to a folder
beside it.

Minutes on two free cores of 2026, five seeds: figures 1 and 2 together 1, 3 and 4 1 each, 5 10, 6 1; tables
lambda 12, thresholds 8, batch 5, limit 3, snr 3 (10 more without figure 5, whose computations it shares),
true 4. ``--all`` takes about 0.8 hours, and with ``--quick`` a minute.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common.cells import Cells, provenance
from benchmarks.common.pool import computed
from benchmarks.common.scenarios import HELD_OUT_SEEDS, measure
from benchmarks.supplement.figure_verdicts import FIGURE_VERDICTS
from benchmarks.supplement.figures import FIGURES, draw
from benchmarks.supplement.in_vivo import missing_files
from benchmarks.supplement.page import HEADINGS, Section, page
from benchmarks.supplement.plan import ITEMS, SNR, Plan, found_for
from benchmarks.supplement.table_verdicts import TABLE_VERDICTS
from benchmarks.supplement.tables import TABLES
from sicnn_app.sicnn.tiles import tile_count

VERDICTS = {**FIGURE_VERDICTS, **TABLE_VERDICTS}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.supplement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = [int(name.removeprefix("figure-")) for name in FIGURES]
    tables = [name.removeprefix("table-") for name in TABLES]
    parser.add_argument("--figure", type=int, choices=figures, action="append", default=[])
    parser.add_argument("--table", choices=tables, action="append", default=[])
    parser.add_argument("--all", action="store_true", help="every figure and table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="also write the page of the documentation")
    parser.add_argument("--quick", action="store_true", help="a minute's version, to see that all works")
    parser.add_argument("--seeds", type=int, nargs="+", default=HELD_OUT_SEEDS)
    parser.add_argument("--shape", type=int, nargs=3, help="voxels of the phantom")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--data", default=Plan.data, help="abdominal dataset of --table true")
    options = parser.parse_args(argv)
    options.items = [
        item
        for item in ITEMS
        if options.all
        or item in {f"figure-{number}" for number in options.figure}
        or item in {f"table-{name}" for name in options.table}
    ]
    if not options.items:
        parser.error("name a --figure or a --table, or ask for --all")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    plan = Plan(seeds=tuple(options.seeds), data=options.data)
    plan = plan.quick() if options.quick else plan
    return plan if options.shape is None else replace(plan, shape=tuple(options.shape))


def steps_per_epoch(plan: Plan) -> int:
    """Optimiser steps of an epoch on the phantom of Figures 1 and 2."""
    inside = measure(plan.scenario(SNR, plan.seeds[0])).mask
    sizes = [math.prod(tile_count(length) for length in plan.shape[:2]), inside.any(axis=(0, 1)).sum()]
    return math.ceil(math.prod(map(int, sizes)) / plan.settings.batch_size)


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    plan, items = plan_of(options), options.items
    missing = missing_files(Path(plan.data), plan.true_runs) if "table-true" in items else []
    if missing:
        print(f"--table true is left out: {missing[0]} is missing, give --data", file=sys.stderr)
        items = [item for item in items if item != "table-true"]
    command = shlex.join(["python", "-m", "benchmarks.supplement", *(sys.argv[1:] if argv is None else argv)])
    jobs = [job for item in items for job in ITEMS[item](plan).values()]
    results = computed(jobs, Cells(options.out / "cells.jsonl"), options.workers)
    origin = provenance(command)
    sections = []
    for item in items:
        found = found_for(item, plan, results)
        verdicts = VERDICTS[item](plan, found)
        if item in FIGURES:
            paths = draw(item, plan, found, origin, options.out)
            sections.append(Section(item, verdicts, origin, picture=paths[0]))
        else:
            table = TABLES[item](plan, found)
            paths = table.write(item, origin, options.out)
            sections.append(Section(item, verdicts, origin, table=table.markdown(), rows=paths[0]))
        print(*paths, sep="\n")
    write_verdicts(sections, origin, options.out / "verdicts.md")
    if options.page is not None:
        write_page(sections, steps_per_epoch(plan), options.page)


def write_verdicts(sections: Sequence[Section], origin: str, path: Path) -> None:
    parts = [
        f"## {HEADINGS[section.item]}\n\n" + "\n".join(f"- {line}" for line in section.verdicts)
        for section in sections
        if section.verdicts
    ]
    path.write_text("\n\n".join([*parts, origin]) + "\n", encoding="utf-8")
    print(path)


def write_page(sections: Sequence[Section], steps: int, place: Path) -> None:
    """Write the page, and copies of the files it links into the folder of its name beside it."""
    folder = place.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)

    def copied(path: Path | None) -> Path | None:
        return None if path is None else Path(shutil.copy(path, folder))

    moved = [
        replace(section, picture=copied(section.picture), rows=copied(section.rows)) for section in sections
    ]
    place.write_text(page(moved, steps, place), encoding="utf-8")
    print(place)


if __name__ == "__main__":
    main()
