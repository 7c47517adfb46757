"""How long the group level takes for many participants, and how large its page is and how fast it opens.

    python -m benchmarks.scaling.group --participants 1 100 1000

One tiny simulated abdomen is processed; its derivatives and its segmentation are copied to as many
participants and sessions as asked for, with maps and signal-to-noise ratios times random numbers. The level
group is then called in a process of its own: with nothing there, again, and after one run has changed. Its
page is opened three times in a Chromium, where there is one with playwright (docs/report.md), and another
region is chosen there: medians of the times until the browser has drawn it, and of the processor time that
the page itself takes to open, which other programs on the machine change little.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.common.cells import parser_of
from benchmarks.pictures.pages import find_chromium
from sicnn_app.cli.main import main as run_app
from sicnn_app.cli.simulate import main as simulate

SHAPE = ("24", "20", "2")
COLUMNS = (
    "participants",
    "runs",
    "rows",
    "first call (s)",
    "again (s)",
    "one run changed (s)",
    "page (MB)",
    "table (MB)",
    "memory (GB)",
    "page opens (s)",
    "of a processor (s)",
    "another region (s)",
)
SCALED = ("f", "d", "dstar")
PARTICIPANT_SPREAD, MEASUREMENT_SPREAD = 0.15, 0.05
"""Standard deviations of the natural logarithms of the random factors."""


def make_template(folder: Path) -> tuple[Path, Path]:
    """Process one simulated run; gives the folders ``dwi`` of its derivatives and of its truth."""
    bids, out = folder / "bids", folder / "one"
    if simulate([str(bids), "--preset", "abdomen", "--snr", "30", "--shape", *SHAPE]) or run_app(
        [str(bids), str(out), "participant", "--device", "cpu"]
    ):
        raise SystemExit("the template could not be made")
    return out / "sub-01" / "dwi", bids / "derivatives" / "truth" / "sub-01" / "dwi"


def copy_run(source: Path, target: Path, name: str, factor: float) -> None:
    """Copy the derivatives of the template under another name, its maps times a factor."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        renamed = target / path.name.replace("sub-01", name, 1)
        label = path.name.partition("_param-")[2].partition("_")[0]
        if path.name.endswith(".nii.gz") and label in SCALED:
            image = nib.load(path)
            nib.Nifti1Image(
                image.get_fdata(dtype=np.float32) * np.float32(factor), None, image.header
            ).to_filename(renamed)
        elif path.name.endswith("_qc.json"):
            content = json.loads(path.read_text())
            if "Outputs" in content:
                content["Outputs"] = [entry.replace("sub-01", name, 1) for entry in content["Outputs"]]
            renamed.write_text(json.dumps(content))
        elif path.name.endswith("ivim_qc.tsv"):
            head, row = (line.split("\t") for line in path.read_text().splitlines())
            cells = dict(zip(head, row, strict=True))
            cells |= {"source": name} | {
                key: f"{float(cells[key]) / factor:.8g}" for key in ("snr_b0", "snr_highest_b")
            }
            renamed.write_text("\t".join(head) + "\n" + "\t".join(cells.values()) + "\n")
        else:
            shutil.copyfile(path, renamed)


def make_group(
    folder: Path, template: tuple[Path, Path], participants: int, sessions: int
) -> tuple[Path, Path]:
    """Derivatives and segmentations of many participants; gives both datasets."""
    derivatives, truth = template
    out, rois = folder / "out", folder / "rois"
    rng = np.random.default_rng(0)
    for number in range(1, participants + 1):
        own = rng.normal(scale=PARTICIPANT_SPREAD)
        for session in range(1, sessions + 1):
            subject, name = f"sub-{number:04d}", f"sub-{number:04d}_ses-{session}"
            factor = float(np.exp(own + rng.normal(scale=MEASUREMENT_SPREAD)))
            copy_run(derivatives, out / subject / f"ses-{session}" / "dwi", name, factor)
            (out / f"{name}.html").touch()
            place = rois / subject / f"ses-{session}" / "dwi"
            place.mkdir(parents=True)
            for path in truth.glob("*_desc-tissues_dseg.*"):
                shutil.copyfile(path, place / path.name.replace("sub-01", name, 1))
    return out, rois


def call(out: Path, rois: Path) -> float:
    """Seconds of one call of the level group."""
    command = [sys.executable, "-m", "sicnn_app", str(out / "no dataset"), str(out), "group", "-d", str(rois)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def open_page(path: Path) -> list[float]:
    """Seconds until a page is drawn, of a processor, and until another region is; NaN without a Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return [math.nan] * 3
    drawn = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium())
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            started = time.perf_counter()
            page.goto(path.as_uri())
            page.evaluate(drawn)
            opened = time.perf_counter()
            metrics = session.send("Performance.getMetrics")["metrics"]
            (busy,) = [metric["value"] for metric in metrics if metric["name"] == "TaskDuration"]
            chosen = time.perf_counter()
            page.locator("#region").select_option(index=1)
            page.evaluate(drawn)
            times.append((opened - started, busy, time.perf_counter() - chosen))
            page.close()
        browser.close()
    return np.median(times, axis=0).tolist()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--sessions", type=int, default=1)
    given = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    with tempfile.TemporaryDirectory() as folder:
        template = make_template(Path(folder) / "template")
        for participants in given.participants:
            place = Path(folder) / str(participants)
            out, rois = make_group(place, template, participants, given.sessions)
            seconds = [call(out, rois), call(out, rois)]
            marker = next(out.glob("sub-*/ses-*/dwi/*_desc-ivim_qc.json"))
            marker.write_text(json.dumps({**json.loads(marker.read_text()), "Fingerprint": "changed"}))
            seconds.append(call(out, rois))
            sizes = [(out / name).stat().st_size / 1e6 for name in ("group.html", "group_ivim.tsv")]
            rows = len((out / "group_ivim.tsv").read_text().splitlines()) - 1
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            more = (*sizes, peak, *open_page(out / "group.html"))
            numbers = [*(f"{value:.1f}" for value in seconds), *(f"{value:.2f}" for value in more)]
            runs = participants * given.sessions
            print("| " + " | ".join([str(participants), str(runs), str(rows), *numbers]) + " |", flush=True)
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
