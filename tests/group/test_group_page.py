"""The page of the group: self-contained, linked, tolerant and the same every time."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from app_runs import App
from group_runs import add_run, change_qc, chart_data, gather, group_files, sidecar, strips, table

from sicnn_app.group import labels
from sicnn_app.group.labels import MAX_REGIONS, RegionNames, choose_regions
from sicnn_app.group.outliers import measure_kinds, outlier_measures
from sicnn_app.report.page import vendored

RUNS = 9
F_CHART = "F, perfusion fraction"


@pytest.fixture
def app(capsys) -> App:
    return App(capsys)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Nine participants with two sessions; one measurement is far too high, one session has no report."""
    tmp_path = tmp_path_factory.mktemp("group")
    for subject in range(1, RUNS + 1):
        for session in (1, 2):
            factor = 3.0 if (subject, session) == (3, 1) else 1.0 + 0.01 * subject + 0.002 * session
            out = add_run(tmp_path, sub=f"{subject:02d}", ses=str(session), factor=factor)
    (out / "sub-09_ses-2.html").unlink()
    return out


@pytest.fixture
def html(app, out) -> str:
    assert gather(app, out).code == 0
    return (out / "group.html").read_text(encoding="utf-8")


def test_every_point_is_the_value_of_its_run_and_leads_to_its_report(html, out):
    rows = {row["source"]: row for row in table(out)}
    assert len(chart_data(html)["measures"]) == 5 + 3
    for title, column, factor in (("F, perfusion fraction", "f", 100), ("D, tissue diffusion", "d", 1000)):
        values = strips(html, title)["own"]["values"]
        assert values == {
            name: pytest.approx(factor * float(row[f"{column}_median"]), rel=5e-4)
            for name, row in rows.items()
        }
    for name, report, _ in chart_data(html)["runs"]:
        if report is None:
            assert name == "sub-09_ses-2"
            continue
        page, anchor = report.split("#")
        assert anchor == f"run-{name}" and f'id="{anchor}"' in (out / page).read_text()
        assert f'<tr id="{anchor}"><th scope="row"><a href="{report}">{name}</a>' in html
    assert "sub-09_ses-2.html" not in html
    assert "<li>sub-09_ses-2</li>" in html


def test_outliers_are_marked_named_and_in_the_table(html, out):
    marked = {row["source"]: row["outliers"] for row in table(out) if row["outliers"] != "n/a"}
    assert "f_median far high" in marked["sub-03_ses-1"]
    strip = strips(html, F_CHART)["own"]
    far = {list(strip["values"])[int(place)] for place, level in strip["levels"].items() if level == 2}
    assert far == {name for name, text in marked.items() if "f_median far" in text}
    (record,) = [item for item in sidecar(out)["Distributions"] if item["Column"] == "f_median"]
    values = [float(row["f_median"]) for row in table(out)]
    assert record["Runs"] == len(values)
    quartiles = np.percentile(values, (25, 50, 75))
    assert record["Quartiles"] == pytest.approx(quartiles.tolist())
    assert strip["box"][1:4] == pytest.approx(100 * quartiles, rel=1e-3)
    inside = [x for name, x in strip["values"].items() if name not in far]
    assert (strip["box"][0], strip["box"][4]) == (min(inside), max(inside))


def test_tables_say_without_a_script_what_the_charts_show(html, out):
    values = 100 * np.array([float(row["f_median"]) for row in table(out)])
    section = html.split('id="parameters"')[1].split("</section>")[0]
    low, middle, high = np.percentile(values, (25, 50, 75))
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", section.split("<tbody>")[1])
    assert cells[:2] == ["whole mask", str(len(values))]
    assert [float(number) for number in re.findall(r"[0-9.]+", cells[2])] == pytest.approx(
        [middle, low, high], rel=5e-3
    )
    assert len(re.findall('<tr id="run-sub-', html)) == len(values)


def test_the_conventional_fit_is_drawn_beside(app, tmp_path):
    for number in range(1, 7):
        out = add_run(tmp_path, sub=str(number), seed=number, comparison=True)
    gather(app, out)
    html = (out / "group.html").read_text(encoding="utf-8")
    fit = strips(html, F_CHART)["fit"]
    assert fit["label"].startswith("whole mask, least squares: 6 runs, median ") and fit["box"]
    assert fit["values"] == {
        row["source"]: pytest.approx(100 * float(row["lsq_f_median"]), rel=5e-4) for row in table(out)
    }
    assert fit["values"] != strips(html, F_CHART)["own"]["values"]


def test_repeatability_on_the_page_is_that_of_the_table(html, out):
    rows = table(out, "group_repeatability")
    assert [row["participants"] for row in rows] == [str(RUNS)] * 3
    section = html.split('id="repeatability"')[1]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section.split("<tbody>")[1].split("</tbody>")[0])
    assert float(cells[3].removesuffix(" %")) == pytest.approx(
        100 * float(rows[0]["within_subject_cv"]), abs=0.06
    )
    coefficient = float(cells[5].split(" ")[0])
    assert coefficient == pytest.approx(100 * float(rows[0]["repeatability_coefficient"]), rel=5e-3)
    found = chart_data(html)["pairs"][0]
    first = {row["source"]: 100 * float(row["f_median"]) for row in table(out)}
    assert found["first"] == pytest.approx([first[f"sub-0{n}_ses-1"] for n in range(1, RUNS + 1)], rel=5e-4)
    assert found["second"] == pytest.approx([first[f"sub-0{n}_ses-2"] for n in range(1, RUNS + 1)], rel=5e-4)
    bounds = [100 * float(rows[0][name]) for name in ("bias", "limits_lower", "limits_upper")]
    assert [line[0] for line in found["lines"]] == pytest.approx(bounds, rel=5e-4)


def test_the_page_is_self_contained_and_sound(html, out):
    own = html.replace(vendored("uPlot.iife.min.js"), "").replace(vendored("uPlot.min.css"), "")
    assert not re.search("https?:", own) and "default-src 'none'" in own
    assert str(out.parent) not in html and not re.search(r"\b20\d\d-\d\d-\d\d\b", html)
    identifiers = re.findall(r' id="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    inside = re.findall(r'href="#([^"]+)"', html)
    assert len(inside) > 5 and set(inside) <= set(identifiers)
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", html)]
    assert levels[0] == 1 and all(deeper - level <= 1 for level, deeper in pairwise(levels))
    assert len(re.findall("<table", html)) == len(re.findall("<caption", html))


def test_the_page_of_one_run_has_no_outliers_and_no_repeats(app, tmp_path):
    out = add_run(tmp_path, sub="01")
    assert gather(app, out).code == 0
    html = (out / "group.html").read_text(encoding="utf-8")
    assert "No value lies outside" in html and 'id="repeatability"' not in html
    assert "made alike" not in html
    assert all(strip["box"] is None for strip in chart_data(html)["strips"])


def test_the_verdict_on_every_run_is_on_the_page(app, tmp_path):
    for subject in ("01", "02", "03", "04"):
        out = add_run(tmp_path, sub=subject)
    for subject, verdict in (("01", "good"), ("02", "poor"), ("03", "good"), ("04", "n/a")):
        change_qc(out, f"sub-{subject}", adequacy=verdict)
    assert gather(app, out).code == 0
    html = (out / "group.html").read_text(encoding="utf-8")
    assert "<dt>Verdict good / doubtful / poor</dt><dd>2 / 0 / 1</dd>" in html
    runs = html.split('id="runs"')[1]
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row)[0] for row in runs.split("<tr id=")[1:]]
    assert [cell.replace("\u00a0", " ") for cell in cells] == ["✔ good", "✘ poor", "✔ good", "n/a"]
    change_qc(out, "sub-04", adequacy="unknown")
    gather(app, out)
    html = (out / "group.html").read_text(encoding="utf-8")
    assert "<dt>Verdict good / doubtful / poor / unknown</dt><dd>2 / 0 / 1 / 1</dd>" in html


def test_a_page_of_some_runs_says_so_at_its_head(app, tmp_path):
    for subject in ("01", "02", "03"):
        out = add_run(tmp_path, sub=subject)
    gather(app, out, "--participant-label", "01", "03")
    head = (out / "group.html").read_text(encoding="utf-8").split("</header>")[0]
    assert "2 of the 3 runs in this dataset, chosen by --participant-label 01 03" in head
    assert sidecar(out)["Selection"] == {"ChosenBy": "--participant-label 01 03", "RunsNotChosen": 1}
    for options in ((), ("--participant-label", "01", "02", "03")):
        gather(app, out, *options)
        assert "chosen by" not in (out / "group.html").read_text(encoding="utf-8")


def test_runs_made_otherwise_are_a_warning(app, tmp_path):
    out = add_run(tmp_path, sub="01", settings={"denoise": "mppca", "similarity": {"measure": "largest"}})
    add_run(tmp_path, sub="02", settings={"denoise": "none", "similarity": {"measure": "mean"}})
    path = out / "sub-02/dwi/sub-02_desc-ivim_qc.json"
    path.write_text(re.sub("sicnn-app [0-9.]+", "sicnn-app 0.0.1", path.read_text()))
    assert gather(app, out).code == 0
    html = (out / "group.html").read_text(encoding="utf-8")
    assert "<li>denoise: mppca (1 run), none (1 run)</li>" in html
    assert "<li>similarity measure: largest (1 run), mean (1 run)</li>" in html
    assert "<li>version of sicnn-app: 0.0.1 (1 run), " in html


def test_whatever_the_derivatives_say_is_text(app, tmp_path):
    hostile = '"><script>alert(1)</script>{{ 7 * 7 }}'
    out = add_run(tmp_path, sub="01", settings={"denoise": hostile})
    add_run(tmp_path, sub="02")
    change_qc(out, "sub-01", method=hostile, anatomy=hostile, stop_reason=hostile, adequacy=hostile)
    assert gather(app, out).code == 0
    html = (out / "group.html").read_text(encoding="utf-8")
    assert html.count("&lt;script&gt;") >= 5 and html.count("<script") == 2 and ">49" not in html


def test_calling_again_changes_no_byte(app, out):
    assert gather(app, out).code == 0
    first = group_files(out)
    assert gather(app, out, "--overwrite").code == 0
    assert group_files(out) == first


# layout


def rows_of(regions: int, runs: int) -> list[dict[str, str]]:
    kinds = [("n/a", "mask"), *(("atlas", f"region {number}") for number in range(regions))]
    return [
        {"source": f"sub-{run}", "segmentation": segmentation, "region": region, "f_median": "0.1",
         "d_median": "0.001", "snr_b0": "20"}
        for run in range(runs)
        for segmentation, region in kinds
    ]  # fmt: skip


def test_a_name_says_what_differs_and_no_more():
    def kind(region, segmentation=None, acquisition="acq-a", method="lsq"):
        names = {"region": region, "segmentation": segmentation, "acquisition": acquisition, "method": method}
        return {"anatomy": "body", **names}

    alike = [kind("mask"), kind("liver", "rois")]
    assert [RegionNames(alike).of(item) for item in alike] == ["whole mask", "liver"]
    several = [*alike, kind("liver", "atlas"), kind("mask", "atlas", "acq-b", "si-cnn"), kind("mask")]
    names = RegionNames(several)
    assert [names.of(item) for item in several[1:4]] == [
        "liver (rois), acq-a, Least squares",
        "liver (atlas), acq-a, Least squares",
        "mask (atlas), acq-b, SI-CNN",
    ]
    assert names.of(several[1], alone=True) == "liver (rois)"
    assert [several.index(item) for item in sorted(several[:4], key=names.rank)] == [0, 1, 2, 3]


def test_an_atlas_does_not_make_the_page_large(monkeypatch):
    few, hidden = choose_regions(measure_kinds(rows_of(3, 5), outlier_measures()))
    assert len(few) == 4 and hidden == 0
    many, hidden = choose_regions(measure_kinds(rows_of(400, 2), outlier_measures()))
    assert len(many) == MAX_REGIONS and hidden == 401 - MAX_REGIONS
    monkeypatch.setattr(labels, "MAX_POINTS", 24_000)
    long, _ = choose_regions(measure_kinds(rows_of(9, 2000), outlier_measures()))
    assert (None, "mask") in long and len(long) == (24_000 - 3 * 2000) // (2 * 2000) + 1
