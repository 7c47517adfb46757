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
OPTIONS = ("participant", "--ensemble", "3", "--device", "cpu")
WIDTH = 1100
WITHOUT_GRAPHICS_CARD = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Arguments of Chromium, for WebGL2 by software."""

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
        browser = driver.chromium.launch(executable_path=find_chromium(), args=WITHOUT_GRAPHICS_CARD)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1500})
        page.goto((out / "sub-01.html").as_uri())
        _save(page.screenshot(), "report")
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.get_by_role("link", name="Voxel by voxel").click()
        _use_voxels(page)
        _save(page.locator(".viewer").screenshot(), "voxels")
        browser.close()


def _use_voxels(page) -> None:
    """Pin two voxels, draw a region and choose another one, at shares of the picture's width and height."""
    page.locator("#maps[data-ready]").wait_for()
    picture = page.locator("figure[data-map=f] .view")
    box = picture.bounding_box()

    def spot(across: float, down: float) -> tuple[float, float]:
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    for place in ((0.34, 0.66), (0.77, 0.4)):
        page.mouse.click(*spot(*place))
        page.keyboard.press("p")
    page.get_by_role("button", name="Draw outline").click()
    page.mouse.move(*spot(0.14, 0.42))
    page.mouse.down()
    for place in ((0.22, 0.36), (0.26, 0.42), (0.24, 0.5), (0.14, 0.5), (0.14, 0.42)):
        page.mouse.move(*spot(*place), steps=8)
    page.mouse.up()
    page.get_by_role("button", name="Draw outline").click()
    page.mouse.click(*spot(0.42, 0.36))
    page.get_by_label("b-axis").select_option("square root")


def _save(screenshot: bytes, name: str) -> None:
    Image.open(io.BytesIO(screenshot)).save(IMAGES / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
