"""Damaged runs through the app in this process, and what was wrong with how it took them.

Called with a folder and lists of seeds such as ``3,4,5``, one list per call of the app; prints one line of
JSON before every call and one after it. ``--keep`` leaves datasets and outputs for inspection.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
from app_runs import QUICK  # noqa: E402
from bids_datasets import Dataset  # noqa: E402
from fuzz.mutations import Damaged, damage, undamaged  # noqa: E402

from sicnn_app.cli.main import main  # noqa: E402
from sicnn_app.ivim.run import RunResult  # noqa: E402
from sicnn_app.report import before_after, html  # noqa: E402

OPTIONS = (*QUICK, "--motion-correction", "none")
CODES = (0, 1, 65, 66)
"""How a call on a valid dataset with damaged runs may end."""

HEADROOM = 1 << 30
"""Bytes of address space a call may take beyond what the process has already."""

GROWTH_KB = 250_000
"""Resident memory a call may take beyond what the process holds before it."""

MAX_WARNINGS = 8
MAX_LINE = 1000
LABELS = ("f", "d", "dstar", "s0", "rmse")
BOUNDS = {"f": (0, 1), "d": (0, 0.005), "dstar": (0.005, 0.2), "s0": (0, np.inf), "rmse": (0, np.inf)}

REPORT_EVERY = 20
"""A report takes ten times as long as a run: of damaged ones every twentieth is drawn."""


def drawn(seed: int) -> bool:
    return seed % REPORT_EVERY == 0


def without_most_reports() -> None:
    """Let the app draw the reports of some runs only."""
    build, draw = html.build_report, before_after.draw_steps

    def is_drawn(subject: str) -> bool:
        return subject.isdecimal() and drawn(int(subject))

    def build_some(output_dir: Path, subject: str, session: str | None, **options) -> Path:
        if is_drawn(subject):
            return build(output_dir, subject, session, **options)
        return html.report_path(output_dir, subject, session)

    def draw_some(result: RunResult) -> dict[str, bytes]:
        return draw(result) if is_drawn(result.run.subject) else {}

    html.build_report = build_some
    before_after.draw_steps = draw_some


def limit_memory() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, size + HEADROOM))


def memory_kb(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1])


def forget_peak() -> None:
    """Let the system measure the peak of resident memory (``VmHWM``) anew."""
    Path("/proc/self/clear_refs").write_text("5")


def independent_reading(made: Damaged) -> str:
    """What nibabel, gzip and NumPy say against the files of a run that the app took; empty for nothing."""
    content = made.files[made.image]
    if made.image == ".nii.gz":
        done = subprocess.run(["gzip", "-dc"], input=content, capture_output=True, check=False)
        if done.returncode == 1:
            # A single byte after the stream is rubbish as well, but gzip waits for a second one.
            done = subprocess.run(["gzip", "-dc"], input=content[:-1], capture_output=True, check=False)
        # gzip returns 2 when only rubbish follows the stream.
        if done.returncode not in (0, 2):
            return f"gzip: {done.stderr.decode()}"
        content = done.stdout
    try:
        image = nib.Nifti1Image.from_bytes(content)
        with np.errstate(all="ignore"):
            shape = np.asarray(image.dataobj).shape
    except Exception as error:
        return f"nibabel: {type(error).__name__}: {error}"
    try:
        bvals = np.array(made.files[".bval"].decode("utf-8-sig").split(), dtype=float)
    except ValueError as error:
        return f".bval: {error}"
    if bvals.size != int(np.prod(shape[3:])):
        return f"{bvals.size} b-values for shape {shape}"
    if not (np.isfinite(bvals) & (bvals >= 0)).all() or np.unique(bvals).size < 4 or bvals.min() > 200:
        return f"b-values {bvals}"
    return ""


def map_path(folder: Path, name: str, label: str) -> Path:
    return folder / f"{name}_model-ivim_param-{label}_dwimap.nii.gz"


def faults_of_maps(folder: Path, name: str) -> list[str]:
    """What is wrong with the maps of a run."""
    stem = folder / name
    masks = [path for kind in ("body", "brain") if (path := Path(f"{stem}_desc-{kind}_mask.nii.gz")).exists()]
    if len(masks) != 1:
        return [f"{len(masks)} masks"]
    inside = np.asarray(nib.load(masks[0]).dataobj) > 0
    faults = [] if inside.any() else ["the mask is empty"]
    for label in LABELS:
        path = map_path(folder, name, label)
        if not path.exists():
            faults.append(f"no {label}")
            continue
        values = np.asarray(nib.load(path).dataobj)
        low, high = BOUNDS[label]
        if values.shape != inside.shape:
            faults.append(f"{label} has shape {values.shape}, the mask {inside.shape}")
        elif not np.isfinite(values[inside]).all():
            faults.append(f"{label} is not finite inside the mask")
        elif not np.isnan(values[~inside]).all():
            faults.append(f"{label} has values outside the mask")
        elif (values[inside] < low - 1e-7).any() or (values[inside] > high * (1 + 1e-6)).any():
            faults.append(f"{label} is out of bounds: {values[inside].min()} to {values[inside].max()}")
    return faults


def differences(out: Path, first: str, second: str) -> list[str]:
    """Maps of two runs that are not the same."""
    values = [
        {label: np.asarray(nib.load(map_path(out / name / "dwi", name, label)).dataobj) for label in LABELS}
        for name in (first, second)
    ]
    return [
        f"{label} is not that of the undamaged run"
        for label in LABELS
        if not np.array_equal(values[0][label], values[1][label], equal_nan=True)
    ]


def faults_of_run(made: Damaged, name: str, root: Path, said: str) -> list[str]:
    """What was wrong with how one damaged run was taken."""
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith(f"error: {name}: ")]
    warnings = [line for line in lines if line.startswith("warning: ") and f"{name}_dwi" in line]
    folder = root / "out" / name / "dwi"
    faults = [f"a line of {len(line)} characters" for line in (*errors, *warnings) if len(line) > MAX_LINE]
    if len(warnings) > MAX_WARNINGS:
        faults.append(f"{len(warnings)} warnings")
    if len(errors) > 1:
        faults.append(f"{len(errors)} error lines")
    if errors:
        if any(word in errors[0] for word in ("internal error", "out of memory", "cannot be written")):
            faults.append(errors[0])
        if f"{name}_dwi" not in errors[0]:
            faults.append(f"the message names no file: {errors[0]}")
        if folder.exists():
            faults.append(f"refused, but there are {sorted(path.name for path in folder.iterdir())}")
        if made.harmless:
            faults.append(f"refused, though nothing that matters was changed: {errors[0]}")
        return faults
    if not folder.exists():
        return [*faults, "neither refused nor done"]
    if made.harmless:
        faults += differences(root / "out", name, f"{name}plain")
    objection = independent_reading(made)
    if objection:
        faults.append(f"taken, though {objection}")
    return faults + faults_of_maps(folder, name)


def call(seeds: Sequence[int], root: Path) -> dict:
    """One call of the app on the damaged runs of some seeds beside a valid run.

    Returns
    -------
    dict
        ``seeds``, ``code``, ``seconds``; ``kilobytes``: by how much memory grew meanwhile; ``faults``:
        per seed, or ``call``, what was wrong; ``refused``: how many runs were; ``done``: what was
        changed, per seed.
    """
    dataset = Dataset(root / "bids")
    runs = {seed: damage(seed) for seed in seeds}
    for seed, made in runs.items():
        made.write(dataset.root, f"sub-{seed}")
        if made.harmless:
            undamaged(seed).write(dataset.root, f"sub-{seed}plain")
    undamaged(0).write(dataset.root, "sub-good")
    out, err = io.StringIO(), io.StringIO()
    forget_peak()
    held, started = memory_kb("VmRSS:"), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(dataset.root), str(root / "out"), "participant", *OPTIONS])
    seconds, grown = time.monotonic() - started, memory_kb("VmHWM:") - held
    said = out.getvalue() + err.getvalue()
    faults: dict[str, list[str]] = {}
    for seed, made in runs.items():
        found = faults_of_run(made, f"sub-{seed}", root, err.getvalue())
        if found:
            faults[str(seed)] = found
    whole = faults_of_maps(root / "out" / "sub-good" / "dwi", "sub-good")
    if code not in CODES:
        whole.append(f"exit code {code}: {err.getvalue()[-300:]}")
    if "Traceback" in said:
        whole.append(f"a traceback: {said[said.index('Traceback') :][:2000]}")
    whole += [
        f"left behind: {path.relative_to(root)}"
        for path in (root / "out").rglob(".*")
        if path.name not in (".bidsignore", ".sicnn-app")
    ]
    if whole:
        faults["call"] = whole
    return {
        "seeds": list(seeds),
        "code": code,
        "seconds": round(seconds, 2),
        "kilobytes": grown,
        "refused": sum(line.startswith("error: sub-") for line in err.getvalue().splitlines()),
        "faults": faults,
        "done": {seed: made.done for seed, made in runs.items()},
        "said": [line for line in err.getvalue().splitlines() if line.startswith("error: ")],
    }


def work(root: Path, batches: Sequence[Sequence[int]], *, keep: bool) -> None:
    """Print what became of every batch; the first call, without damage, sets the limits."""
    without_most_reports()
    print(json.dumps(call([], root / "first")), flush=True)
    limit_memory()
    for number, seeds in enumerate(batches):
        print(json.dumps({"started": list(seeds)}), flush=True)
        result = call(seeds, root / str(number))
        if result["kilobytes"] > GROWTH_KB:
            result["faults"].setdefault("call", []).append(f"{result['kilobytes']} kB more memory")
        print(json.dumps(result), flush=True)
        if not keep:
            shutil.rmtree(root / str(number))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--keep"]
    work(
        Path(words[0]),
        [[int(seed) for seed in word.split(",")] for word in words[1:]],
        keep="--keep" in sys.argv,
    )
