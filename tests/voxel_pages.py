"""Pages of single voxels as their program reads them: their numbers, and the fit of a region."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import sicnn_app.report
from sicnn_app.cli import main, simulate

PROGRAM = Path(sicnn_app.report.__file__).parent / "templates" / "biexponential.js"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node, which runs the page's program")


def content(page: bytes) -> dict:
    """What the program of a page reads."""
    (text,) = re.findall(rb'<script type="application/json" id="run">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)


def unpack(run: dict) -> tuple[np.ndarray, list[np.ndarray], dict[str, np.ndarray]]:
    """Places of the voxels in the box, shape (M, 3), their codes and their numbers."""
    data = gzip.decompress(base64.b64decode(run["packed"]))
    places = math.prod(run["shape"])
    bits = -(-places // 8)
    inside = np.unpackbits(np.frombuffer(data[:bits], np.uint8))[:places].astype(bool)
    voxels = int(inside.sum())
    rest = np.frombuffer(data[bits + places :], np.uint8).reshape(-1, voxels)
    codes, halves = list(rest[:3]), rest[3:].reshape(len(run["fields"]), 2, voxels)
    numbers = {
        field["name"]: np.ascontiguousarray(pair.T).view("<f2")[:, 0].astype(float) * field["unit"]
        for field, pair in zip(run["fields"], halves, strict=True)
    }
    # The first axis of the box runs fastest, and so does the last one of numpy.
    places_inside = np.argwhere(inside.reshape(run["shape"][::-1]))[:, ::-1]
    return places_inside, codes, numbers


def array_index(run: dict, place: np.ndarray) -> tuple[int, ...]:
    """Index in the file of a place in the box."""
    turned = [
        run["shape"][axis] - 1 - place[axis] if flipped else place[axis]
        for axis, flipped in zip(run["axes"], run["flipped"], strict=True)
    ]
    return tuple(int(start + inside) for start, inside in zip(run["origin"], turned, strict=True))


def fits_of_the_page(cases: list[tuple], bounds: Mapping[str, Sequence[float]]) -> list[dict | None]:
    """Fits by the program of the page, of b-values, signals, noise and volumes each."""
    plain = [[np.asarray(part, dtype=float).tolist() for part in case] for case in cases]
    script = f"""{PROGRAM.read_text(encoding="utf-8")}
    const fits = {json.dumps(plain)}.map((one) => fitWeighed(...one, {json.dumps(bounds)}));
    console.log(JSON.stringify(fits));
    """
    said = subprocess.run(["node"], input=script, check=True, capture_output=True, text=True).stdout
    return json.loads(said)


def run_with_lost_signals(folder: Path) -> Path:
    """Output of a simulated abdomen in which volumes lost signal, with its tissues as regions."""
    made = [str(folder / "bids"), "--preset", "abdomen", "--snr", "40", "--shape", "40", "36", "1"]
    assert simulate.main([*made, "--repeats", "4", "--losses", "1.5"]) == 0
    truth = f"truth={folder / 'bids/derivatives/truth'}"
    options = ["--method", "lsq", "--device", "cpu", "--omp-nthreads", "1", "-d", truth]
    assert main.main([str(folder / "bids"), str(folder / "out"), "participant", *options]) == 0
    return folder / "out"
