"""The report of a subject as people use it: its length, folds, links, prints, flicker and ratings."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import QUICK, body, dataset
from bids_datasets import AFFINE, Dataset
from browser.test_pages_in_chromium import DESKTOP, PHONE, chromium, visit  # noqa: F401
from factories import make_result

from sicnn_app.cli.main import main
from sicnn_app.derivatives.ratings import rating_name, read_rating
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.report.before_after import draw_steps
from sicnn_app.report.html import build_report

LAPTOP, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PAPER = {"width": 718, "height": 1047}
"""A4 between the margins that Chromium leaves, in CSS pixels."""

SCREENS, SHEETS, PHONE_LENGTHS = 3, 4, 3


@pytest.fixture(scope="module")
def regions(chromium, tmp_path_factory) -> Path:  # noqa: F811
    """Two runs of a subject with the regions of a segmentation."""
    root = tmp_path_factory.mktemp("regions")
    made = dataset(root / "bids", "sub-01_run-1", "sub-01_run-2")
    organs = Dataset(root / "rois", kind="derivative")
    found = np.zeros(body().shape[:3], dtype=np.int16)
    found[2:6, 2:-2], found[6:-2, 2:-2] = 1, 2
    (root / "rois/sub-01/dwi").mkdir(parents=True)
    nib.save(nib.Nifti1Image(found, AFFINE), root / "rois/sub-01/dwi/sub-01_desc-organs_dseg.nii.gz")
    organs.write("sub-01/dwi/sub-01_desc-organs_dseg.tsv", "index\tname\n1\tliver\n2\tspleen\n")
    assert main([str(made.root), str(root / "out"), "participant", *QUICK, "-d", str(root / "rois")]) == 0
    return root / "out" / "sub-01.html"


@pytest.fixture(scope="module")
def everything(chromium, tmp_path_factory) -> Path:  # noqa: F811
    """A run without regions that has every other section, and a correction to flicker."""
    folder = tmp_path_factory.mktemp("everything")
    result = make_result(folder, shape=(24, 20, 12), ensemble=True, comparison=True)
    before = np.random.default_rng(0).uniform(100, 600, (2, 24, 20)).astype(np.float32)
    step = BeforeAfter(
        "denoising", (50.0, 800.0), (4, 11), 6, before, before / 2, result.averaged.mask[..., 6]
    )
    result = replace(result, before_after=[step])
    write_run(result, folder / "out", bids_dir=folder / "bids", dataset_links={}, pictures=draw_steps(result))
    return build_report(folder / "out", "01", None)


@pytest.fixture(params=["regions", "everything"])
def page(request) -> Path:
    return request.getfixturevalue(request.param)


def lengths(visited) -> tuple[float, list[float]]:
    """Height of the page, and of the section of each run, in CSS pixels."""
    whole = visited.page.evaluate("document.documentElement.scrollHeight")
    runs = visited.page.locator("main > section[id^=run]").all()
    return whole, [run.bounding_box()["height"] for run in runs]


def printed_pages(pdf: bytes) -> list[int]:
    """Bytes of what is drawn on every page of a PDF of Chromium."""
    objects = rb"(\d+) 0 obj\s*<<((?:(?!endobj).)*?)>>\s*stream\n(.*?)\nendstream"
    streams = {
        number: len(zlib.decompress(content) if b"FlateDecode" in head else content)
        for number, head, content in re.findall(objects, pdf, re.DOTALL)
    }
    return [streams[number] for number in re.findall(rb"/Type /Page\b.*?/Contents (\d+) 0 R", pdf, re.DOTALL)]


def test_a_run_takes_three_screens_and_the_phone_three_times_as_much(page, visit):  # noqa: F811
    whole, runs = lengths(visit(page, viewport=LAPTOP))
    narrow, _ = lengths(visit(page, viewport=NARROW))
    assert runs and max(runs) <= SCREENS * LAPTOP["height"]
    assert narrow <= PHONE_LENGTHS * whole


def test_a_run_prints_on_four_sheets_and_none_is_blank(page, visit):  # noqa: F811
    visited = visit(page, viewport=LAPTOP)
    runs = len(lengths(visited)[1])
    drawn = printed_pages(visited.page.pdf(format="A4", print_background=True))
    assert 1 + runs <= len(drawn) <= 1 + SHEETS * runs
    assert min(drawn) > 5000
    visited.page.set_viewport_size(PAPER)
    visited.page.emulate_media(media="print")
    assert visited.page.evaluate("document.documentElement.scrollWidth") <= PAPER["width"]


def test_links_unfold_what_they_lead_to_and_the_list_of_runs_stays(everything, visit):  # noqa: F811
    from playwright.sync_api import expect

    page = visit(everything, viewport=LAPTOP).page
    training = page.locator("#run-sub-01-training")
    assert not training.is_visible()
    page.get_by_role("link", name="Training", exact=True).click()
    assert training.is_visible()
    expect(page.get_by_role("heading", name="Training", exact=True)).to_be_in_viewport(timeout=30_000)
    assert page.locator("nav.top").bounding_box()["y"] == pytest.approx(0, abs=1)
    page.get_by_role("button", name="Unfold all").click()
    assert page.locator("details.part:not([open])").count() == 0
    page.get_by_role("button", name="Fold all").click()
    assert page.locator("details.part[open]").count() == 0


def test_an_address_with_a_section_unfolds_it(everything, visit):  # noqa: F811
    page = visit(everything).page
    page.goto(f"{everything.as_uri()}#run-sub-01-spread")
    page.reload()
    assert page.locator("#run-sub-01-spread").is_visible()


def test_without_scripts_all_but_the_rating_can_be_read(everything, chromium):  # noqa: F811
    context = chromium.new_context(java_script_enabled=False, viewport=DESKTOP)
    page = context.new_page()
    page.goto(everything.as_uri())
    assert page.locator(".answers dt").count() == 5
    assert page.get_by_role("button", name="Unfold all").count() == 0
    for part in page.locator("details.part > summary").all():
        if part.locator("xpath=..").get_attribute("open") is None:
            part.click()
    assert page.get_by_text("Downloading a rating needs JavaScript").is_visible()
    assert page.get_by_role("button", name="Download the rating").count() == 0
    assert page.get_by_role("img", name=re.compile("before and after")).is_visible()
    context.close()


def test_a_rating_is_saved_as_the_group_reads_it(everything, visit, tmp_path):  # noqa: F811
    visited = visit(everything, viewport=PHONE)
    page = visited.page
    page.get_by_role("link", name="Rate", exact=True).click()
    save = page.get_by_role("button", name="Download the rating")
    save.click()
    assert page.get_by_text("Choose a rating first.").is_visible()
    page.get_by_role("radio", name=re.compile("^Doubtful")).check()
    page.get_by_role("checkbox", name="Too much noise").check()
    page.get_by_role("checkbox", name=re.compile("^Motion, or")).check()
    page.get_by_role("textbox", name="Note").fill('left lobe: "dark" <b> ü')
    page.get_by_label("Reviewer").fill("AB")
    with page.expect_download() as waiting:
        save.click()
    name = waiting.value.suggested_filename
    assert name == rating_name("sub-01")
    waiting.value.save_as(tmp_path / name)
    rating = read_rating(tmp_path / name)
    assert (rating.run, rating.rating, rating.reasons) == ("sub-01", "doubtful", ("motion", "noise"))
    assert (rating.note, rating.reviewer) == ('left lobe: "dark" <b> ü', "AB")
    assert rating.version and abs(datetime.now(UTC) - rating.date) < timedelta(minutes=5)
    assert visited.complaints == []


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_before_and_after_lie_on_each_other_and_move_only_where_that_is_wanted(everything, visit, motion):  # noqa: F811
    page = visit(everything, viewport=LAPTOP).page
    page.emulate_media(reduced_motion=motion)
    page.goto(f"{everything.as_uri()}#run-sub-01-steps")
    window, picture = page.locator(".window label"), page.locator(".window img")
    whole = picture.bounding_box()["width"]
    page.get_by_role("switch", name=re.compile("^Flicker")).check()
    shown = window.bounding_box()["width"] / picture.bounding_box()["width"]
    assert shown == pytest.approx(1 / 3, abs=0.02)
    assert picture.evaluate("(image) => image.getAnimations().length") == (
        1 if motion == "no-preference" else 0
    )
    places = set()
    for step in (0.2, 0.8):
        if motion == "no-preference":
            picture.evaluate("(image, step) => { const [a] = image.getAnimations(); a.pause();"
                             " a.currentTime = step * a.effect.getTiming().duration; }", step)  # fmt: skip
        elif step > 0.5:
            window.hover()
        places.add(round(picture.bounding_box()["x"]))
    before, after = sorted(places, reverse=True)
    assert (before - after) / picture.bounding_box()["width"] == pytest.approx(1 / 3, abs=0.02)
    page.emulate_media(media="print", reduced_motion=motion)
    assert window.bounding_box()["width"] == pytest.approx(picture.bounding_box()["width"], abs=2)
    assert whole > 0
