"""The pages in a real browser: they load, ask for nothing, everybody can use them, and the numbers are right.

Skipped where playwright, a Chromium or axe-core is missing; docs/report.md says how to get them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import group_runs
import nibabel as nib
import numpy as np
import pytest
from factories import BVALS, SIGMA, make_result

from benchmarks.pictures.pages import find_chromium
from sicnn_app.cli.main import main
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.report.html import build_report
from sicnn_app.report.style import colour_map

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("SICNN_APP_BROWSER_TESTS") == "required"
"""What is missing is a failure then, so that a machine that is meant to run these tests cannot skip them."""

DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
SERIOUS = ("serious", "critical")


def missing(what: str) -> None:
    (pytest.fail if REQUIRED else pytest.skip)(f"{what}: see docs/report.md")


@pytest.fixture(scope="module")
def axe() -> str:
    path = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    if not path.is_file():
        missing("axe-core is missing")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium():
    path = find_chromium()
    if path is None:
        missing("no Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is missing")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that was opened, and what went wrong or out of it."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium):
    """Open a page of the output; closed at the end."""
    contexts = []

    def opened(path: Path, *, viewport: dict = DESKTOP, scheme: str = "light") -> Visit:
        context = chromium.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        made = Visit(context.new_page())
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on(
            "console",
            lambda line: made.complaints.append(line.text) if line.type in ("error", "warning") else None,
        )
        made.page.on("request", lambda request: made.requests.append(request.url))
        made.page.goto(path.as_uri())
        return made

    yield opened
    for context in contexts:
        context.close()


def invisible_images(page) -> list[str]:
    """Texts of images that could not be decoded or have no width."""
    return page.evaluate(
        """async () => {
          const images = [...document.images];
          await Promise.all(images.map((image) => image.decode().catch(() => null)));
          return images.filter((image) => !image.naturalWidth).map((image) => image.alt);
        }"""
    )


def violations(page, axe: str) -> list[str]:
    """Serious faults of accessibility, also in what is folded away."""
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{fault['id']}: {node['target']} {node.get('failureSummary', '')}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def out(chromium, tmp_path_factory) -> Path:
    """An ensemble with a conventional fit, written and reported with the page of its voxels."""
    folder = tmp_path_factory.mktemp("browser")
    result = make_result(folder, shape=(12, 10, 3), ensemble=True, comparison=True)
    write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={})
    build_report(folder / "out", "01", None, interactive=True, errors=["sub-01_run-2: truncated"])
    return folder / "out"


@pytest.fixture(scope="module")
def group(chromium, tmp_path_factory) -> Path:
    """Eight participants measured twice, and an outlier among them."""
    folder = tmp_path_factory.mktemp("group")
    for participant in range(8):
        for session in ("1", "2"):
            written = group_runs.add_run(
                folder, sub=f"{participant:02}", ses=session, factor=3.0 if participant == 7 else 1.0
            )
    assert main([str(folder / "no dataset"), str(written), "group"]) == 0
    return written / "group.html"


@pytest.fixture(scope="module")
def pages(out, group) -> dict[str, Path]:
    return {"report": out / "sub-01.html", "voxels": voxels_of(out), "group": group}


def voxels_of(out: Path) -> Path:
    return out / "sub-01" / "figures" / "sub-01_desc-voxels_dwi.html"


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["report", "voxels", "group"])
def test_a_page_loads_and_everybody_can_use_it(axe, pages, visit, name, viewport, scheme):
    visited = visit(pages[name], viewport=viewport, scheme=scheme)
    assert invisible_images(visited.page) == []
    assert visited.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert violations(visited.page, axe) == []
    assert visited.complaints == []
    outside = [url for url in visited.requests if not url.startswith("data:")]
    assert outside == [pages[name].as_uri()]


def test_these_checks_find_what_they_look_for(tmp_path, visit, axe):
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<html><body><img src="http://127.0.0.1:9/x.png"><p style="color:#aaa">pale</p>'
        "<script>console.error('broken')</script></body></html>"
    )
    visited = visit(bad)
    assert invisible_images(visited.page) == [""]
    found = " ".join(violations(visited.page, axe))
    assert all(rule in found for rule in ("image-alt", "color-contrast", "html-has-lang"))
    assert any("broken" in line for line in visited.complaints)
    assert "http://127.0.0.1:9/x.png" in visited.requests


class VoxelPage:
    """The page of the voxels as a person uses it."""

    def __init__(self, visited: Visit) -> None:
        self.page = visited.page
        self.map = self.page.get_by_role("application")

    def click(self, row: int, column: int) -> None:
        """Click the middle of a pixel of the map."""
        rows, columns = self.size
        box = self.map.bounding_box()
        self.map.click(
            position={
                "x": (column + 0.5) / columns * box["width"],
                "y": (row + 0.5) / rows * box["height"],
            }
        )

    @property
    def size(self) -> tuple[int, int]:
        return tuple(
            self.page.evaluate("['height', 'width'].map((side) => document.querySelector('#pixels')[side])")
        )

    @property
    def index(self) -> tuple[int, int, int]:
        """Array indices that the page names."""
        return tuple(int(number) for number in re.findall(r"\d+", self.page.inner_text("#where")))

    def table(self, body: str) -> dict[str, list[str]]:
        rows = self.page.locator(f"#{body} tr").all()
        cells = [row.locator("th, td").all_text_contents() for row in rows]
        return {first: rest for first, *rest in cells}

    def colour(self, row: int, column: int) -> list[int]:
        return self.page.evaluate(
            "([row, column]) => [...document.querySelector('#pixels').getContext('2d')"
            ".getImageData(column, row, 1, 1).data].slice(0, 3)",
            [row, column],
        )


@pytest.fixture
def voxels(out, visit) -> VoxelPage:
    return VoxelPage(visit(voxels_of(out)))


def volume(out: Path, ending: str) -> np.ndarray:
    return np.asarray(nib.load(out / "sub-01" / "dwi" / f"sub-01_{ending}.nii.gz").dataobj)


def a_map(out: Path, label: str, desc: str = "") -> np.ndarray:
    return volume(out, f"model-ivim_param-{label}{desc}_dwimap")


@pytest.mark.parametrize(("row", "column"), [(2, 3), (5, 9), (7, 6)])
def test_a_click_shows_the_numbers_of_the_files(out, voxels, row, column):
    voxels.click(row, column)
    index = voxels.index
    rows = voxels.table("numbers")
    factors = {"F (%)": ("f", 100), "D (10⁻³\u00a0mm²/s)": ("d", 1e3), "D* (10⁻³\u00a0mm²/s)": ("dstar", 1e3)}
    for name, (label, factor) in factors.items():
        truth = [factor * float(a_map(out, label, desc)[index]) for desc in ("", "_desc-std", "_desc-lsq")]
        assert [float(text) for text in rows[name]] == pytest.approx(truth, rel=6e-3)
    assert float(rows["S0 (image units)"][0]) == pytest.approx(float(a_map(out, "s0")[index]), rel=6e-3)
    assert float(rows["RMSE (%)"][0]) == pytest.approx(100 * float(a_map(out, "rmse")[index]), rel=6e-3)
    code = int(volume(out, "desc-ivimflags_dseg")[index])
    words = {0: "No flag.", **{flag.code: f"Flagged: {flag.description}." for flag in FLAGS}}
    assert voxels.page.inner_text("#trust") == words[code]


def test_the_signals_and_both_curves_are_those_of_the_voxel(out, voxels):
    voxels.click(4, 4)
    index = voxels.index
    rows = voxels.table("signals")
    assert [float(b) for b in rows] == list(BVALS)
    measured, noise, own, conventional = np.array([[float(text) for text in row] for row in rows.values()]).T
    series = volume(out, "desc-preproc_dwi")[index].reshape(len(BVALS), -1)
    np.testing.assert_allclose(measured, series.mean(axis=1), rtol=6e-3)
    for desc, shown in (("", own), ("_desc-lsq", conventional)):
        maps = [float(a_map(out, label, desc)[index]) for label in ("f", "d", "dstar", "s0")]
        np.testing.assert_allclose(shown, ivim_signal_maps(np.array(BVALS), *maps), rtol=6e-3)
    np.testing.assert_allclose(noise, SIGMA / np.sqrt(2), rtol=6e-3)
    assert voxels.page.locator("#decay circle").count() == len(BVALS)
    assert voxels.page.locator("#decay path.curve").count() == 2


def test_left_in_the_picture_is_right_in_the_subject(out, voxels):
    affine = nib.load(next((out / "sub-01" / "dwi").glob("*param-f_dwimap.nii.gz"))).affine
    places = {}
    for name, pixel in {"left": (5, 2), "right": (5, 8), "top": (2, 5), "bottom": (8, 5)}.items():
        voxels.click(*pixel)
        places[name] = affine @ (*voxels.index, 1)
    assert places["left"][0] > places["right"][0]
    assert places["top"][1] > places["bottom"][1]


def test_the_keyboard_reaches_every_voxel_and_the_numbers_are_said(out, voxels):
    voxels.click(5, 5)
    before = voxels.index
    voxels.page.keyboard.press("ArrowRight")
    voxels.page.keyboard.press("ArrowUp")
    i, j, k = voxels.index
    assert {abs(i - before[0]), abs(j - before[1])} == {1} and k == before[2]
    for key in ("PageUp", "PageUp", "PageDown"):
        voxels.page.keyboard.press(key)
    assert voxels.index == (i, j, k + 1)
    said = voxels.page.get_by_role("status").text_content()
    assert said.startswith(f"Voxel {i}, {j}, {k + 1}; F {voxels.table('numbers')['F (%)'][0]}")
    for _ in range(30):
        voxels.page.keyboard.press("ArrowDown")
    assert "Outside the mask" in voxels.page.get_by_role("status").text_content()
    assert set(voxels.table("numbers")["F (%)"]) == {"n/a"}


def test_maps_have_the_colours_of_the_report(out, voxels):
    voxels.click(5, 5)
    for label, name, low, high in (("f", "magma", 0.0, 0.5), ("d", "viridis", 0.0, 0.003)):
        voxels.page.get_by_label("Map", exact=True).select_option(label)
        share = (float(a_map(out, label)[voxels.index]) - low) / (high - low)
        expected = 255 * np.array(colour_map(name)(share)[:3])
        np.testing.assert_allclose(voxels.colour(5, 5), expected, atol=4)
    voxels.page.get_by_label("Map", exact=True).select_option("flags")
    flags, found = volume(out, "desc-ivimflags_dseg"), set()
    for column in range(1, 9):
        voxels.click(5, column)
        code = int(flags[voxels.index])
        if code:
            found.add(code)
            colour = next(flag.color for flag in FLAGS if flag.code == code)
            assert voxels.colour(5, column) == [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    assert found
    assert voxels.page.locator("#legend li").count() == len(FLAGS)


def test_the_report_leads_to_the_voxels_and_back(out, visit):
    page = visit(out / "sub-01.html").page
    page.get_by_role("link", name="Voxel by voxel").click()
    page.wait_for_url("**/sub-01_desc-voxels_dwi.html")
    page.get_by_role("link", name="back to the report").click()
    page.wait_for_url("**/sub-01.html#run-sub-01")
