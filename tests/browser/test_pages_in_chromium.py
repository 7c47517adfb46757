"""The pages in a real browser: they load, ask for nothing, everybody can use them, and the numbers are right.

Skipped where playwright, a Chromium or axe-core is missing; docs/report.md says how to get them.
"""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import group_runs
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids_datasets import Dataset
from factories import BVALS, SIGMA, make_result
from PIL import Image
from voxel_pages import run_with_lost_signals

from benchmarks.pictures.pages import WITHOUT_GRAPHICS_CARD, find_chromium
from sicnn_app.cli.main import main
from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.lsq.estimate import estimate_lsq
from sicnn_app.report.html import build_report
from sicnn_app.report.style import colour_map
from sicnn_app.report.voxels import voxel_page

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
        browser = driver.chromium.launch(executable_path=path, args=WITHOUT_GRAPHICS_CARD)
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

    def opened(
        path: Path, *, viewport: dict = DESKTOP, scheme: str = "light", place: str = "", before: str = ""
    ) -> Visit:
        context = chromium.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        made = Visit(context.new_page())
        made.page.add_init_script(before)
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on(
            "console",
            lambda line: made.complaints.append(line.text) if line.type in ("error", "warning") else None,
        )
        made.page.on("request", lambda request: made.requests.append(request.url))
        made.page.goto(path.as_uri() + place)
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
    build_report(folder / "out", "01", None, errors=["sub-01_run-2: truncated"])
    return folder / "out"


@pytest.fixture(scope="module")
def group(chromium, tmp_path_factory) -> Path:
    """Eight participants measured twice with a conventional fit and two regions, an outlier and ratings."""
    folder = tmp_path_factory.mktemp("group")
    rois = Dataset(folder / "rois", kind="derivative")
    rois.write("desc-halves_dseg.tsv", "index\tname\n1\tliver\n2\tspleen\n")
    labels = np.ones(group_runs.SHAPE, dtype=int)
    labels[3:] = 2
    for participant in range(8):
        for session in ("1", "2"):
            names = {"sub": f"{participant:02}", "ses": session}
            written = group_runs.add_run(
                folder,
                **names,
                factor=3.0 if participant == 7 else 1.0,
                seed=2 * participant + int(session),
                comparison=True,
            )
            run = f"sub-{names['sub']}_ses-{session}"
            like = group_runs.map_path(written, run, "f")
            group_runs.add_segmentation(rois, f"{run.replace('_', '/')}/dwi/{run}_desc-halves", labels, like)
    for run, rating in (("sub-01_ses-1", "good"), ("sub-02_ses-1", "doubtful"), ("sub-03_ses-1", "unusable")):
        rated = {"Run": run, "Rating": rating, "Date": "2026-11-30T14:00:00Z"}
        (folder / f"{run}_desc-rating.json").write_text(json.dumps(rated))
    call = [str(folder / "no dataset"), str(written), "group", "-d", str(rois.root), "--ratings", str(folder)]
    assert main(call) == 0
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
    if name == "voxels":
        visited.page.locator("#maps[data-ready]").wait_for()
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


def chart(page, title: str):
    return page.get_by_role("application", name=re.compile(rf"^{re.escape(title)}: \d"))


def column_of(page, head: str) -> list[str]:
    """Texts of the visible cells below a head of the table of runs."""
    return page.evaluate(
        """(head) => {
          const table = document.querySelector("#run-table");
          const place = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === head);
          const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
          return rows.map((row) => row.cells[place].textContent);
        }""",
        head,
    )


def test_a_point_names_its_run_and_leads_to_its_report(group, visit):
    page = visit(group).page
    page.get_by_label("Conventional fit").uncheck()
    plot = chart(page, "F, perfusion fraction")
    values = {
        row["source"]: float(row["f_median"])
        for row in group_runs.table(group.parent)
        if row["region"] == "mask"
    }
    # Points go from the lowest value to the highest; the last strip is that of the run rated unusable.
    usable = sorted((value, name) for name, value in values.items() if name != "sub-03_ses-1")
    plot.press("Home")
    said = page.locator("#said")
    assert said.text_content().startswith(f"{usable[0][1]}: {100 * usable[0][0]:#.3g} %")
    for _ in usable[1:]:
        plot.press("ArrowRight")
    assert said.text_content().startswith(f"{usable[-1][1]}: {100 * usable[-1][0]:#.3g} %")
    plot.press("End")
    assert "sub-03_ses-1" in said.text_content() and "rated unusable" in said.text_content()
    plot.press("Home")
    plot.scroll_into_view_if_needed()
    # The mouse finds the same point where the ring is.
    ring = plot.locator(".ring").bounding_box()
    plot.blur()
    assert plot.locator(".ring").count() == 0
    page.mouse.click(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    assert plot.locator(".tip").text_content().startswith(usable[0][1])
    plot.get_by_role("link", name="report").click()
    page.wait_for_url(f"**/{usable[0][1]}.html#run-{usable[0][1]}")


def test_a_row_and_its_address_mark_the_run_in_every_chart(group, visit):
    page = visit(group).page
    page.get_by_role("button", name="Mark sub-04_ses-1 in the charts").click()
    charts = page.get_by_role("application").count()
    # F, D and D* have a point of the conventional fit as well.
    assert page.locator(".ring").count() == charts + 3 and charts == 5 + 2 + 3
    page.get_by_label("Conventional fit").uncheck()
    assert page.locator(".ring").count() == charts
    page.get_by_role("button", name="clear").click()
    assert page.locator(".ring").count() == 0
    page.goto(f"{group.as_uri()}#run-sub-05_ses-2")
    assert page.inner_text("#pinned").startswith("Marked: sub-05_ses-2")
    seen = """() => {
      const { top, bottom } = document.querySelector("tr.pinned").getBoundingClientRect();
      return top > 0 && bottom > top && bottom < innerHeight;
    }"""
    page.wait_for_function(seen)
    assert page.locator("tr.pinned th").first.inner_text().startswith("sub-05_ses-2")


def test_the_table_of_runs_sorts_filters_and_shows_regions(group, visit):
    page = visit(group).page
    rows = group_runs.table(group.parent)
    masks = [row for row in rows if row["region"] == "mask"]
    head = page.locator("#run-table thead th", has_text=re.compile(r"^F \(%\)"))
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        shown = [float(text) for text in column_of(page, "F (%)")]
        assert shown == sorted(shown, reverse=order == "descending") and len(shown) == 16
    page.get_by_role("button", name="Rating").click()
    ratings = column_of(page, "Rating")
    assert [text[2:] for text in ratings[:3]] == ["good", "doubtful", "unusable"]
    assert set(ratings[3:]) == {"n/a"}
    page.get_by_role("button", name="Run", exact=True).click()
    for region in ("spleen", "whole mask"):
        page.locator("#region").select_option(label=region)
        own = [row for row in rows if row["region"] == region.replace("whole ", "")]
        for name, column in (("F (%)", "f_median"), ("LSQ F (%)", "lsq_f_median")):
            expected = [100 * float(row[column]) for row in own]
            assert [float(text) for text in column_of(page, name)] == pytest.approx(expected, rel=6e-3)
        assert region in page.inner_text("#run-table caption")
        wider = "(plots) => plots.filter((plot) => plot.firstChild.offsetWidth > plot.clientWidth).length"
        assert page.locator(".plot").evaluate_all(wider) == 0
    page.get_by_label("Find runs").fill("sub-03 unusable")
    assert [text[:12] for text in column_of(page, "Run")] == ["sub-03_ses-1"]
    assert page.inner_text("#count") == f"1 of {len(masks)} runs"
    page.get_by_label("Find runs").fill("")
    assert len(column_of(page, "Run")) == len(masks)


def test_the_group_prints_dark_pages_on_white_and_needs_no_script_for_its_tables(group, chromium, visit):
    page = visit(group, scheme="dark").page
    darkest = """() => {
      const canvas = document.querySelector(".plot canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let least = 255;
      for (let place = 0; place < data.length; place += 4) {
        if (data[place + 3] > 250) least = Math.min(least, data[place]);
      }
      return least;
    }"""
    assert page.evaluate(darkest) > 40
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(50)
    assert page.evaluate(darkest) < 30
    context = chromium.new_context(java_script_enabled=False)
    try:
        plain = context.new_page()
        plain.goto(group.as_uri())
        assert plain.locator("#run-table tbody tr").count() == 16
        assert not plain.locator("#choose").is_visible() and "has no charts" in plain.inner_text("main")
        for region in ("whole mask", "liver", "spleen"):
            assert plain.locator("#parameters th[scope=row]", has_text=region).first.is_visible()
    finally:
        context.close()


class VoxelPage:
    """The page of the voxels as a person uses it, with the maps named in the address."""

    def __init__(self, visited: Visit) -> None:
        self.page = visited.page
        self.maps = self.page.get_by_role("application")
        self.page.locator("#maps[data-ready]").wait_for()
        self.run = json.loads(self.page.locator("#run").text_content())

    def view(self, label: str = "f"):
        return self.page.locator(f"figure[data-map={label}] .view")

    def spot(self, i: int, j: int, label: str = "f") -> dict[str, float]:
        """Middle of a voxel of an axial slice in its picture, which the slice fills as far as it can."""
        shape, affine = self.run["shape"], np.array(self.run["affine"])
        place = [0, 0, 0]
        for index, start, axis, flipped in zip(
            (i, j), self.run["origin"], self.run["axes"], self.run["flipped"], strict=False
        ):
            place[axis] = shape[axis] - 1 - (index - start) if flipped else index - start
        box = self.view(label).bounding_box()
        wide, high = (size * np.hypot(*affine[:3, axis][:2]) for axis, size in enumerate(shape[:2]))
        scale = min(box["width"] / wide, box["height"] / high)
        # Right is on the left, anterior on top.
        across, down = (0.5 - (place[axis] + 0.5) / shape[axis] for axis in (0, 1))
        return {"x": box["width"] / 2 + across * wide * scale, "y": box["height"] / 2 + down * high * scale}

    def click(self, i: int, j: int, label: str = "f") -> None:
        self.view(label).click(position=self.spot(i, j, label))

    @property
    def index(self) -> tuple[int, int, int]:
        """Array indices that the page names."""
        return tuple(int(number) for number in re.findall(r"\d+", self.page.inner_text("#where")))

    def table(self, body: str) -> dict[str, list[str]]:
        rows = self.page.locator(f"#{body} tr").all()
        cells = [row.locator("th, td").all_text_contents() for row in rows]
        return {first: rest for first, *rest in cells}

    def colour(self, i: int, j: int, label: str) -> list[int]:
        spot = self.spot(i, j, label)
        picture = Image.open(io.BytesIO(self.view(label).screenshot()))
        # Beside the cross.
        return list(picture.convert("RGB").getpixel((round(spot["x"]) + 4, round(spot["y"]) + 4)))


@pytest.fixture
def voxels(out, visit) -> VoxelPage:
    return VoxelPage(visit(voxels_of(out), place="#maps=f"))


def volume(out: Path, ending: str) -> np.ndarray:
    return np.asarray(nib.load(out / "sub-01" / "dwi" / f"sub-01_{ending}.nii.gz").dataobj)


def a_map(out: Path, label: str, desc: str = "") -> np.ndarray:
    return volume(out, f"model-ivim_param-{label}{desc}_dwimap")


@pytest.mark.parametrize(("i", "j"), [(2, 3), (5, 7), (9, 4)])
def test_a_click_shows_the_numbers_of_the_files(out, voxels, i, j):
    voxels.click(i, j)
    index = voxels.index
    assert index[:2] == (i, j)
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
    np.testing.assert_allclose(measured, averages(out)[index], rtol=6e-3)
    for desc, shown in (("", own), ("_desc-lsq", conventional)):
        maps = [float(a_map(out, label, desc)[index]) for label in ("f", "d", "dstar", "s0")]
        np.testing.assert_allclose(shown, ivim_signal_maps(np.array(BVALS), *maps), rtol=6e-3)
    np.testing.assert_allclose(noise, SIGMA / np.sqrt(2), rtol=6e-3)
    for axis in ("square root", "logarithmic", "linear"):
        voxels.page.get_by_label("b-axis").select_option(axis)
        assert voxels.page.locator("#decay canvas").count() == 1
    assert voxels.page.locator("#curves span.swatch").count() == 3


def averages(out: Path) -> np.ndarray:
    """Means of the volumes of every b-value, as in the fixtures two of each."""
    series = volume(out, "desc-preproc_dwi")
    return series.reshape(*series.shape[:3], len(BVALS), -1).mean(axis=-1)


def test_left_in_the_picture_is_right_in_the_subject(out, voxels):
    affine = nib.load(next((out / "sub-01" / "dwi").glob("*param-f_dwimap.nii.gz"))).affine
    box = voxels.view().bounding_box()
    places = {}
    for name, (across, down) in {
        "left": (0.25, 0.5),
        "right": (0.75, 0.5),
        "top": (0.5, 0.25),
        "bottom": (0.5, 0.75),
    }.items():
        voxels.view().click(position={"x": across * box["width"], "y": down * box["height"]})
        places[name] = affine @ (*voxels.index, 1)
    assert places["left"][0] > places["right"][0]
    assert places["top"][1] > places["bottom"][1]


LYING = {
    "coronal, from back to front": [[-2, 0, 0], [0, 0, 5], [0, 2.5, 0]],
    "sagittal, from left to right": [[0, 0, 4], [2, 0, 0], [0, -2, 0]],
    "axial, turned in the slice, from top to bottom": [[0, 2, 0], [-3, 0, 0], [0, 0, -4]],
    "unknown": None,
}


@pytest.mark.parametrize("axes", LYING.values(), ids=LYING)
def test_however_slices_lie_the_voxel_is_the_one_that_was_clicked(out, tmp_path, visit, axes):
    run = collect_run(out, "01", None, "sub-01")
    affine = None if axes is None else nib.affines.from_matvec(np.array(axes, float), [7, -5, 3])
    zooms = (1.0, 1.5, 2.0) if affine is None else tuple(nib.affines.voxel_sizes(affine))
    name, content = voxel_page(replace(run, affine=affine, zooms=zooms), report="r.html", version="1")
    (tmp_path / name).write_bytes(content)
    voxels = VoxelPage(visit(tmp_path / name, place="#maps=d"))
    voxels.page.get_by_label("Outline of the mask").uncheck()
    box, places = voxels.view("d").bounding_box(), []
    for across, down in ((0.4, 0.4), (0.6, 0.4), (0.4, 0.6)):
        x, y = across * box["width"], down * box["height"]
        voxels.view("d").click(position={"x": x, "y": y})
        index = voxels.index
        places.append((np.eye(4) if affine is None else affine) @ [*index, 1])
        # The colour below the pointer, whose cross is away by then, is that of the voxel that is named.
        voxels.page.locator("#i").focus()
        voxels.page.locator("#j").fill(str(index[1] + 2 if index[1] < 5 else index[1] - 2))
        voxels.page.locator("#j").press("Enter")
        voxels.page.locator("#i").fill(str(index[0] + 2 if index[0] < 6 else index[0] - 2))
        voxels.page.locator("#i").press("Enter")
        picture = Image.open(io.BytesIO(voxels.view("d").screenshot())).convert("RGB")
        expected = 255 * np.array(colour_map("viridis")(float(run.maps["d"][index]) / 0.003)[:3])
        np.testing.assert_allclose(picture.getpixel((round(x), round(y))), expected, atol=6)
    start, right, below = np.array(places)[:, :3]
    if affine is None:
        # As a matrix on a screen.
        assert right[0] > start[0] and below[1] > start[1]
        return
    across, down = (axis for axis in range(3) if axis != np.abs(affine[:3, 2]).argmax())
    # Right and front are on the left, front and head on top.
    assert right[across] < start[across] and below[down] < start[down]


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
    said = voxels.page.locator("#said").text_content()
    assert said.startswith(f"Voxel {i}, {j}, {k + 1}; F {voxels.table('numbers')['F (%)'][0]}")
    for _ in range(30):
        voxels.page.keyboard.press("ArrowDown")
    assert "Outside the mask" in voxels.page.locator("#said").text_content()
    assert set(voxels.table("numbers")["F (%)"]) == {"n/a"}


def test_maps_have_the_colours_of_the_report_and_windows_change_them(out, visit):
    voxels = VoxelPage(visit(voxels_of(out), place="#maps=d,flags&voxel=5,5,1"))
    place = voxels.index
    name, low, high = "viridis", 0.0, 0.003

    def expected() -> np.ndarray:
        share = (float(a_map(out, "d")[place]) - low) / (high - low)
        return 255 * np.array(colour_map(name)(share)[:3])

    np.testing.assert_allclose(voxels.colour(5, 5, "d"), expected(), atol=6)
    voxels.page.get_by_text("Which maps").click()
    voxels.page.get_by_label("Window of").select_option("d")
    high = 0.002
    voxels.page.get_by_label("to", exact=True).fill("2")
    voxels.page.get_by_label("to", exact=True).press("Enter")
    np.testing.assert_allclose(voxels.colour(5, 5, "d"), expected(), atol=6)
    flags = volume(out, "desc-ivimflags_dseg")[..., 1]
    i, j = np.argwhere(flags > 0)[0]
    colour = next(flag.color for flag in FLAGS if flag.code == flags[i, j])
    assert voxels.colour(int(i), int(j), "flags") == [
        int(colour[start : start + 2], 16) for start in (1, 3, 5)
    ]
    assert voxels.page.locator("#legend li").count() == len(FLAGS)


def test_pins_and_place_stand_in_the_address_and_in_the_downloaded_numbers(out, visit, voxels):
    voxels.click(3, 4)
    voxels.page.keyboard.press("p")
    voxels.click(6, 5)
    voxels.page.wait_for_url(re.compile("voxel=6,5,.*pins=3,4,"))
    place = voxels.page.evaluate("location.hash")
    again = VoxelPage(visit(voxels_of(out), place=place))
    assert again.index[:2] == (6, 5)
    (pinned,) = again.table("pins").items()
    assert pinned[0].startswith("3, 4, ")
    with again.page.expect_download() as download:
        again.page.get_by_role("button", name="Numbers (CSV)").click()
    table = pd.read_csv(download.value.path())
    assert list(table["what"]) == ["voxel", "pin"]
    for row in table.to_dict("records"):
        index = row["i"], row["j"], row["k"]
        assert row["f_lsq"] == pytest.approx(float(a_map(out, "f", "_desc-lsq")[index]), rel=1e-3)
        np.testing.assert_allclose([row[f"signal_b{b:g}"] for b in BVALS], averages(out)[index], rtol=1e-3)
    for button in ("Maps (PNG)", "Chart (PNG)"):
        with again.page.expect_download() as download:
            again.page.get_by_role("button", name=button).click()
        picture = np.asarray(Image.open(download.value.path()).convert("RGB"))
        assert min(picture.shape[:2]) > 150 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_region_drawn_by_hand_has_the_fit_of_its_mean_signal(out, visit):
    voxels = VoxelPage(visit(voxels_of(out), place="#maps=f,d&voxel=5,5,1"))
    page = voxels.page
    page.get_by_role("button", name="Brush").click()
    box = voxels.view().bounding_box()
    corners = [voxels.spot(*corner) for corner in ((3, 4), (6, 4))]
    start, end = [(box["x"] + corner["x"], box["y"] + corner["y"]) for corner in corners]
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()
    assert page.inner_text("#region-title") == "Region of 4 voxels"
    # It shows in the other maps, too.
    page.get_by_role("button", name="Brush").click()
    page.wait_for_url(re.compile("region=[^&]"))
    voxels.click(5, 7, "d")
    page.wait_for_url(re.compile("voxel=5,7,1"))
    of_four = page.evaluate("location.hash")
    page.keyboard.press("Space")
    assert page.inner_text("#region-title") == "Region of 5 voxels"
    members = tuple(np.array([*((i, 4, 1) for i in range(3, 7)), (5, 7, 1)]).T)
    mean = averages(out)[members].mean(axis=0)
    maps = estimate_lsq(
        mean[None, None, None].astype(np.float32),
        np.ones((1, 1, 1), bool),
        np.array(BVALS, dtype=float),
        noise=np.full(len(BVALS), SIGMA / np.sqrt(2)),
        volumes=np.full(len(BVALS), 2),
    ).maps
    rows = voxels.table("region-numbers")
    shown = [float(rows[name][0]) for name in rows if rows[name][0] not in ("", "n/a")]
    truth = [
        factor * maps[label].item() for label, factor in (("f", 100), ("d", 1e3), ("dstar", 1e3), ("s0", 1))
    ]
    np.testing.assert_allclose(shown, truth, rtol=1e-2)
    # The address leads back to all of it, and what is drawn then adds to it.
    page.wait_for_function("before => location.hash !== before", arg=of_four)
    again = VoxelPage(visit(voxels_of(out), place=page.evaluate("location.hash")))
    assert again.page.inner_text("#region-title") == "Region of 5 voxels"
    assert again.table("region-numbers") == rows
    again.page.get_by_role("button", name="Brush").click()
    again.click(7, 6)
    assert again.page.inner_text("#region-title") == "Region of 6 voxels"
    assert float(rows["F (%)"][1]) == pytest.approx(
        100 * float(np.median(a_map(out, "f")[members])), rel=6e-3
    )
    page.get_by_role("button", name="Undo").click()
    assert page.inner_text("#region-title") == "Region of 4 voxels"
    page.get_by_role("button", name="Clear").click()
    assert not page.locator("#region").is_visible()


@pytest.mark.parametrize(
    ("written", "voxels"),
    [("3,4,1,2;5,7,2,1", 3), ("3,4,1,9999999999", 8), ("0,0,0,2", 0), ("99,4,1,3;3,4", 0), ("x", 0)],
    ids=["two rows", "more than there are", "outside the mask", "outside the image", "none"],
)
def test_a_region_in_the_address_is_taken_as_far_as_it_lies_in_the_mask(out, visit, written, voxels):
    visited = visit(voxels_of(out), place=f"#maps=f&region={written}")
    page = VoxelPage(visited).page
    expected = f"Region of {voxels} voxel{'s' * (voxels != 1)}" if voxels else ""
    assert page.locator("#region-title").text_content() == expected and visited.complaints == []


@pytest.fixture(scope="module")
def lost(chromium, tmp_path_factory) -> Path:
    return run_with_lost_signals(tmp_path_factory.mktemp("lost"))


def test_a_region_too_large_for_the_address_says_so(lost, visit):
    inside = np.argwhere(volume(lost, "desc-body_mask") > 0)
    chequered = [place for place in inside.tolist() if sum(place) % 2]
    written = ";".join(f"{i},{j},{k},1" for i, j, k in chequered)
    page = VoxelPage(visit(voxels_of(lost), place=f"#maps=f&region={written}")).page
    assert page.inner_text("#region-title") == f"Region of {len(chequered)} voxels"
    assert "no room for this region" in page.inner_text("#region-words")
    page.wait_for_url(re.compile("region=&"))


def test_a_whole_region_has_the_fit_of_the_report(lost, visit):
    rows = pd.read_csv(lost / "sub-01/dwi/sub-01_desc-regions_qc.tsv", sep="\t")
    codes = volume(lost, "desc-regions_dseg")
    for name in ("liver", "kidney_cortex", "pancreas"):
        (row,) = rows.index[rows["name"] == name]
        i, j, k = np.argwhere(codes == row + 1)[0]
        voxels = VoxelPage(visit(voxels_of(lost), place=f"#maps=f&voxel={i},{j},{k}"))
        voxels.page.get_by_role("button", name=f"Take {name}").click()
        fitted = float(voxels.table("region-numbers")["F (%)"][0])
        assert fitted == pytest.approx(100 * rows["mean_signal_f"][row], abs=0.2)


def test_zoom_and_planes_keep_the_voxel_and_wheels_change_slices(out, visit):
    voxels = VoxelPage(visit(voxels_of(out), place="#maps=f,d&voxel=5,5,1"))
    page = voxels.page
    voxels.click(5, 5)
    page.mouse.wheel(0, -100)
    page.get_by_role("heading", name="Voxel 5, 5, 2").wait_for()
    before = voxels.view("d").screenshot()
    page.get_by_role("button", name="Zoom in").click()
    assert voxels.view("d").screenshot() != before
    page.get_by_role("button", name="Fit").click()
    assert voxels.view("d").screenshot() == before
    page.get_by_label("Borders of the tissue clusters").check()
    assert voxels.view("d").screenshot() != before
    page.get_by_label("Borders of the tissue clusters").uncheck()
    assert voxels.view("d").screenshot() == before
    page.get_by_label("Slices").select_option("coronal")
    assert voxels.view("d").screenshot() != before
    assert voxels.index == (5, 5, 2)


def test_without_webgl_any_voxel_still_has_numbers_and_curves(out, axe, visit):
    blind = """
    const usual = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
      return kind === "webgl2" ? null : usual.call(this, kind, ...rest);
    };
    """
    visited = visit(voxels_of(out), before=blind)
    page = visited.page
    assert "no WebGL2" in page.get_by_role("alert").inner_text()
    assert not page.get_by_role("application").is_visible()
    for axis, index in zip("ijk", (6, 4, 1), strict=True):
        page.locator(f"#{axis}").fill(str(index))
        page.locator(f"#{axis}").press("Enter")
    assert page.inner_text("#where") == "Voxel 6, 4, 1"
    shown = page.locator("#numbers tr").first.locator("td").first.inner_text()
    assert float(shown) == pytest.approx(100 * float(a_map(out, "f")[6, 4, 1]), rel=6e-3)
    page.get_by_role("button", name="Take this voxel").click()
    assert page.inner_text("#region-title") == "Region of 1 voxel"
    assert page.locator("#decay canvas").count() == 1
    assert violations(page, axe) == [] and visited.complaints == []


def test_the_report_leads_to_the_voxels_and_back(out, visit):
    page = visit(out / "sub-01.html").page
    page.get_by_role("link", name="Voxel by voxel").click()
    page.wait_for_url("**/sub-01_desc-voxels_dwi.html")
    page.get_by_role("link", name="back to the report").click()
    page.wait_for_url("**/sub-01.html#run-sub-01")
