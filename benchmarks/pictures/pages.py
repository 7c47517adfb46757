"""Take ``docs/images/report.webp`` and ``voxels.webp``: the pages of ``bids_examples/abdomen`` in a Chromium.

python -m benchmarks.pictures.pages OUT
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image

from sicnn_app.cli.main import main as run_app

ROOT = Path(__file__).parents[2]
DATASET = ROOT / "bids_examples" / "abdomen"
IMAGES = ROOT / "docs" / "images"
OPTIONS = ("participant", "--ensemble", "3", "--device", "cpu", "--report-level", "full")
WIDTH = 1100
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Path of the Chromium named by the environment variable ``CHROMIUM``, or of one that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="output folder of the app; finished runs in it are kept")
    out = parser.parse_args().out.resolve()
    # The second call makes the pages of runs that the first one found finished.
    for more in ((), ("--reports-only",)):
        if code := run_app([str(DATASET), str(out), *OPTIONS, *more]):
            sys.exit(code)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium())
        page = browser.new_page(viewport={"width": WIDTH, "height": 1500})
        page.goto((out / "sub-01.html").as_uri())
        _save(page.screenshot(), "report")
        page.set_viewport_size({"width": WIDTH, "height": 900})
        page.get_by_role("link", name="Voxel by voxel").click()
        shown = page.get_by_role("application")
        box = shown.bounding_box()
        shown.click(position={"x": 0.27 * box["width"], "y": 0.36 * box["height"]})
        _save(page.screenshot(full_page=True), "voxels")
        browser.close()


def _save(screenshot: bytes, name: str) -> None:
    Image.open(io.BytesIO(screenshot)).save(IMAGES / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
