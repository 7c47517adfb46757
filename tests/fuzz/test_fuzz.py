"""Damaged runs end in maps that are right or in one clear line: never in a traceback, a hang or a flood.

Every damaged run is made from its seed alone (``mutations.damage``), so a failure names all it takes to
see it again. Of one seed, or of several, keeping the datasets and the outputs to look at::

    python tests/fuzz/worker.py --keep FOLDER 1234 1235,1236
    FUZZ_SEEDS=1234,1235-1240 python -m pytest tests/fuzz -k chosen

Ten damaged runs and a valid one are one dataset and one call of the app; after a failure that belongs
to the call as a whole every run of it is tried again alone, to find whose fault it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from app_runs import environment
from fuzz.mutations import damage

WORKER = Path(__file__).with_name("worker.py")
PROCESSES = 2
BATCH = 10
MAX_ALONE = 20
SECONDS = 3
"""What a damaged run may take on average beside much other work; it takes a tenth of a second alone."""


def work(root: Path, batches: list[list[int]]) -> tuple[list[dict], list[int]]:
    """Results of a worker process and, if it did not come to its end, the seeds it was at."""
    words = [",".join(map(str, seeds)) for seeds in batches]
    process = subprocess.Popen(
        [sys.executable, str(WORKER), str(root), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    try:
        out, err = process.communicate(timeout=120 + SECONDS * sum(map(len, batches)))
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    results = [line for line in lines if "code" in line]
    assert results, err
    unfinished = lines[-1].get("started", [])
    return results, unfinished


def alone(root: Path, seed: int) -> list[str]:
    """What is wrong with one damaged run, in a process of its own."""
    results, unfinished = work(root, [[seed]])
    faults = [text for result in results[1:] for texts in result["faults"].values() for text in texts]
    return faults + (["the process did not come to its end"] if unfinished else [])


def fuzz(root: Path, seeds: list[int]) -> list[dict]:
    """Results of all calls; fails with the seeds whose damaged runs were not taken as they must be."""
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    shares = [batches[number::PROCESSES] for number in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = list(
            pool.map(
                lambda item: work(root / f"w{item[0]}", item[1]),
                enumerate(share for share in shares if share),
            )
        )
    results = [result for part, _ in parts for result in part]
    suspects = {seed for _, unfinished in parts for seed in unfinished}
    faults: dict[str, list[str]] = {}
    for result in results:
        for whose, texts in result["faults"].items():
            if whose == "call":
                suspects.update(result["seeds"])
                faults[f"call of {result['seeds']}"] = texts
            else:
                faults[f"seed {whose} {damage(int(whose)).done}"] = texts
    # When nearly all calls fail, a few runs tell why.
    for seed in sorted(suspects)[:MAX_ALONE]:
        found = alone(root / f"s{seed}", seed)
        if found:
            faults[f"seed {seed} {damage(seed).done}"] = found
    assert not faults, json.dumps(faults, indent=1)
    assert sum(len(result["seeds"]) for result in results) == len(seeds), "a worker ended early"
    return results


def chosen_seeds() -> list[int]:
    seeds = []
    for word in filter(None, os.environ.get("FUZZ_SEEDS", "").split(",")):
        first, _, last = word.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def summary(results: list[dict]) -> tuple[int, int]:
    """How many damaged runs were taken, and how many refused."""
    runs = sum(len(result["seeds"]) for result in results)
    refused = sum(result["refused"] for result in results)
    return runs - refused, refused


def test_damage_is_the_same_for_the_same_seed_and_touches_every_kind_of_file():
    changed = set()
    for seed in range(100):
        first, again = damage(seed), damage(seed)
        assert (first.files, first.done) == (again.files, again.done)
        changed |= {text.split()[0].rstrip(":") for text in first.done}
    assert {".nii", ".nii.gz", ".bval", ".bvec", ".json", "header", "image", "voxels", "harmless"} <= changed


@pytest.mark.timeout(1200)
def test_two_hundred_damaged_runs(tmp_path, record_property):
    results = fuzz(tmp_path, list(range(200)))
    taken, refused = summary(results)
    record_property("taken", taken)
    record_property("refused", refused)
    # Damage that never matters, or always, would test little.
    assert min(taken, refused) > 50


@pytest.mark.slow
def test_a_thousand_damaged_runs(tmp_path):
    taken, refused = summary(fuzz(tmp_path, list(range(1000, 2000))))
    assert min(taken, refused) > 250


@pytest.mark.skipif("FUZZ_SEEDS" not in os.environ, reason="FUZZ_SEEDS names no seeds")
def test_chosen_damaged_runs(tmp_path):
    fuzz(tmp_path, chosen_seeds())
