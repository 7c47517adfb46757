#!/usr/bin/env python3
"""Run the tests of OSIPI's TF2.4 code collection on sicnn-app and on algorithms of theirs, and print both.

    python integrations/osipi/run_suite.py CHECKOUT [--reference NAME ...] [--spatial]

CHECKOUT is a checkout of https://github.com/OSIPI/TF2.4_IVIM-MRI_CodeCollection; the Python that runs this
needs what it needs, and sicnn-app. The wrapper (and with --spatial the test of a volume) is put there and
taken away afterwards; their list of algorithms, which says what is tested, is then as it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
NAME = "SICNN_app"
REFERENCES = (
    "IAR_LU_biexp",
    "OGC_AmsterdamUMC_biexp",
    "OGC_AmsterdamUMC_biexp_segmented",
    "TF_reference_IVIMfit",
)

TESTS = Path("tests/IVIMmodels/unit_tests")
LIST = TESTS / "algorithms.json"
PLACES = {"SICNN_app.py": Path("src/standardized"), "test_spatial.py": TESTS}

OUTCOMES = ("passed", "failed", "skipped")
Outcome = dict[str, Counter]
"""Number of tests that passed, failed and were skipped, by test function."""


@contextmanager
def placed(checkout: Path, names: list[str]) -> Iterator[None]:
    """Our files in a checkout, and everything as it was afterwards."""
    targets = {checkout / PLACES[name] / name: (HERE / name).read_bytes() for name in names}
    for target, content in targets.items():
        if target.exists() and target.read_bytes() != content:
            sys.exit(f"{target} is another file: move it away")
    made = [target for target in targets if not target.exists()]
    listed = (checkout / LIST).read_bytes()
    try:
        for target in made:
            target.write_bytes(targets[target])
        yield
    finally:
        (checkout / LIST).write_bytes(listed)
        for target in made:
            target.unlink(missing_ok=True)


def outcome_of(checkout: Path, algorithm: str, spatial: bool) -> Outcome:
    """Run the tests of one algorithm; tests of several cannot be told apart by their names."""
    chosen = json.loads((checkout / LIST).read_text(encoding="utf-8")) | {"algorithms": [algorithm]}
    (checkout / LIST).write_text(json.dumps(chosen, indent=4), encoding="utf-8")
    files = [TESTS / "test_ivim_fit.py", *([TESTS / "test_spatial.py"] if spatial else [])]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", "pytest", "-q", *files, "--selectAlgorithm", algorithm, f"--junitxml={report}"]
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=checkout, capture_output=True, text=True
        )
        if not report.exists() or done.returncode not in (0, 1, 5):
            sys.exit(f"pytest ended with {done.returncode} on {algorithm}:\n{done.stdout}{done.stderr}")
        return read_report(report)


def read_report(report: Path) -> Outcome:
    """Outcomes of a report in the format of JUnit; what fails as expected counts as skipped there."""
    found: Outcome = defaultdict(Counter)
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[case.get("name", "").partition("[")[0]][outcome] += 1
    return found


def table(outcomes: dict[str, Outcome]) -> str:
    """A table in Markdown: one row per algorithm, passed/run of every test, skipped ones apart."""
    tests = sorted({test for outcome in outcomes.values() for test in outcome})
    lines = [["algorithm", *tests], ["---"] * (len(tests) + 1)]
    for algorithm, outcome in outcomes.items():
        cells = []
        for counts in (outcome.get(test, Counter()) for test in tests):
            run = counts["passed"] + counts["failed"]
            left_out = f" ({counts['skipped']} skipped)" if counts["skipped"] else ""
            cells.append(f"{counts['passed']}/{run}{left_out}")
        lines.append([algorithm, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Run everything and print the table; 1 when a test fails on sicnn-app."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument(
        "--reference", nargs="*", default=REFERENCES, metavar="NAME", help=", ".join(REFERENCES)
    )
    parser.add_argument("--spatial", action="store_true", help="also test_spatial.py, which is not theirs")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    if not (checkout / LIST).is_file():
        sys.exit(f"{checkout} has no {LIST}: name a checkout of OSIPI/TF2.4_IVIM-MRI_CodeCollection")
    outcomes = {}
    with placed(checkout, ["SICNN_app.py", *(["test_spatial.py"] if options.spatial else [])]):
        for algorithm in (NAME, *options.reference):
            print(f"{algorithm} ...", file=sys.stderr, flush=True)
            outcomes[algorithm] = outcome_of(checkout, algorithm, options.spatial)
    print(table(outcomes))
    return int(any(counts["failed"] for counts in outcomes[NAME].values()))


if __name__ == "__main__":
    sys.exit(main())
