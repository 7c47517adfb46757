"""Pictures from before and after each correction: drawn once, shown by every report, gone with their run."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from app_runs import App, dataset
from factories import make_result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from validator import validator_errors

from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.before_after import BeforeAfter
from sicnn_app.ivim.run import RunResult
from sicnn_app.report import html as html_module
from sicnn_app.report.before_after import draw_steps, step_pictures
from sicnn_app.report.display import plan_display
from sicnn_app.report.figures import step_picture
from sicnn_app.report.html import build_report
from sicnn_app.report.pictures import RunPictures

DENOISING = Path("sub-01/figures/sub-01_desc-stepdenoising_dwi.png")


def corrected(tmp_path: Path, *labels: str) -> RunResult:
    """A finished run of which some corrections changed one slice."""
    result = make_result(tmp_path, shape=(9, 8, 1))
    rng = np.random.default_rng(0)
    before = rng.uniform(100, 600, (2, 9, 8)).astype(np.float32)
    steps = [
        BeforeAfter(
            label,
            (100.0, 800.0),
            (6, 11),
            0,
            before,
            before + rng.normal(0, 10, before.shape).astype(np.float32),
            result.averaged.mask[..., 0],
        )
        for label in labels
    ]
    return replace(result, before_after=steps)


def write(tmp_path: Path, result: RunResult) -> Path:
    write_run(
        result,
        tmp_path / "out",
        bids_dir=tmp_path / "bids",
        dataset_links={},
        pictures=draw_steps(result),
    )
    return tmp_path / "out"


def report(out: Path) -> str:
    """The page without the maps, whose pictures take most of the time."""
    for path in out.glob("sub-01/dwi/*_dwimap.nii.gz"):
        if "param-f_" not in path.name:
            path.unlink()
    return unescape(build_report(out, "01", None).read_text(encoding="utf-8"))


def alts(html: str) -> list[str]:
    return [alt for alt in re.findall(r'alt="([^"]*)"', html) if "before and after" in alt]


def test_the_report_shows_every_correction_with_its_numbers(tmp_path):
    result = corrected(tmp_path, "denoising", "unringing", "motioncorrection")
    out = write(tmp_path, result)
    html = report(out)
    recorded = json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())["StepPictures"]
    names = ["Denoising", "Gibbs unringing", "Motion correction"]
    assert [entry["Step"] for entry in recorded] == names
    for name, step, entry, alt in zip(names, result.before_after, recorded, alts(html), strict=True):
        inside = (step.after - step.before).astype(float)[:, step.inside]
        assert entry["RootMeanSquareDifference"] == pytest.approx(np.sqrt((inside**2).mean(axis=1)), rel=1e-5)
        assert entry["SourceVolumes"] == [6, 11] and entry["Slice"] == 0
        numbers = [f"{value:#.3g}" for value in entry["RootMeanSquareDifference"]]
        assert name in alt and f"{numbers[0]} at b = 100 and {numbers[1]} at b = 800" in alt
        assert f"± {entry['DifferenceRange']:#.3g} image units" in html
    assert "mean that signal was removed" in html


def test_they_stay_when_the_report_is_made_anew_and_go_with_their_run(tmp_path):
    out = write(tmp_path, corrected(tmp_path, "denoising", "unringing"))
    picture = (out / DENOISING).read_bytes()
    assert len(alts(report(out))) == 2
    assert (out / DENOISING).read_bytes() == picture
    marker = json.loads((out / "sub-01/dwi/sub-01_desc-ivim_qc.json").read_text())
    assert not [name for name in marker["Outputs"] if name.endswith(".png")]
    write(tmp_path, corrected(tmp_path, "unringing"))
    assert not (out / DENOISING).exists()
    (shown,) = step_pictures(collect_run(out, "01", None, "sub-01"))
    assert shown.title == "Gibbs unringing"


def test_without_its_numbers_a_picture_is_shown_all_the_same(tmp_path):
    out = write(tmp_path, corrected(tmp_path, "denoising"))
    sidecar = out / "sub-01/dwi/sub-01_desc-ivim_qc.json"
    for entries in (None, [], ["x"], [{"Step": "Denoising", "BValues": "many"}], {"Step": 1}):
        sidecar.write_text(json.dumps({"StepPictures": entries}))
        (picture,) = step_pictures(collect_run(out, "01", None, "sub-01"))
        assert picture.alt == "A slice at two b-values before and after: Denoising, and the difference."
        assert picture.content == (out / DENOISING).read_bytes()


def test_a_damaged_picture_is_named_left_out_and_kept(tmp_path):
    out = write(tmp_path, corrected(tmp_path, "denoising"))
    content = (out / DENOISING).read_bytes()
    for damaged in (content[: len(content) // 2], b"<script>"):
        (out / DENOISING).write_bytes(damaged)
        run = collect_run(out, "01", None, "sub-01")
        assert [line.partition(" (")[0] for line in run.problems] == [f"{DENOISING.name} cannot be read"]
        assert not step_pictures(run)
    html = report(out)
    assert f"{DENOISING.name} cannot be read" in html and not alts(html)
    assert (out / DENOISING).read_bytes() == b"<script>"


@settings(max_examples=8)
@given(
    arrays(np.float32, (2, 2, 5, 4), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)),
    st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_any_images_can_be_drawn(values, scale):
    before, after = values * np.float32(scale)
    step = BeforeAfter("denoising", (100.0, 800.0), (0, 1), 0, before, after, np.ones((5, 4), dtype=bool))
    picture = step_picture(step, plan_display(np.ones((5, 4, 1), dtype=bool), None, (1.0, 2.0, 3.0)))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width > 1000


def test_the_app_draws_them_once_and_replaces_them_with_other_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(html_module, "draw_run", lambda run: RunPictures())
    app, made, out = App(capsys), dataset(tmp_path / "bids"), tmp_path / "out"
    assert app.quick(made, out, "--unring").code == 0
    figures = out / "sub-01" / "figures"
    before = {path.name: path.read_bytes() for path in figures.glob("*_desc-step*")}
    assert list(before) and set(before) == {
        f"sub-01_desc-step{label}_dwi.png" for label in ("denoising", "unringing")
    }
    assert validator_errors(out) == set()
    assert app.raw(made.root, out, "participant", "--reports-only").code == 0
    assert {path.name: path.read_bytes() for path in figures.glob("*_desc-step*")} == before
    assert app.quick(made, out, "--denoise", "none", "--overwrite").code == 0
    assert not list(figures.glob("*_desc-step*"))
