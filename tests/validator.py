"""The official BIDS validator, as several tests ask it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def validator_errors(folder: Path) -> set[tuple[str, str]]:
    """Code and location of every error in a dataset; skips the test where the validator is not installed."""
    program = shutil.which("bids-validator-deno", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run(
        [program, str(folder), "--format", "json"], capture_output=True, text=True, check=False
    )
    report = json.loads(done.stdout)
    assert report["summary"]["totalFiles"] > 0
    found = report["issues"]["issues"]
    return {(issue["code"], issue.get("location", "")) for issue in found if issue["severity"] == "error"}
