"""Tissue clusters in the report: the same numbers in table, captions and files, from derivatives alone."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from factories import BVALS, make_result
from matplotlib.colors import to_rgb

from sicnn_app.derivatives.collect import collect_run
from sicnn_app.derivatives.facts import format_number
from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.precision import cramer_rao_bounds
from sicnn_app.ivim.signal import ivim_signal_maps
from sicnn_app.report.clusters import (
    cluster_files,
    cluster_pictures,
    cluster_rows,
    decay_rows,
    find_clusters,
)
from sicnn_app.report.display import plan_display
from sicnn_app.report.html import build_report

TISSUES = {"f": (0.3, 0.1), "d": (1.0e-3, 2.0e-3), "dstar": (0.06, 0.02), "s0": (600.0, 400.0)}
"""Two tissues, the first in the lower rows."""

SHAPE = (12, 9, 2)


def write(tmp_path: Path, **options) -> Path:
    """A run of two tissues that the maps know exactly but for a spread of 1 %; gives the output folder."""
    result = make_result(tmp_path, shape=SHAPE, comparison=True, **options)
    rng = np.random.default_rng(0)
    first = np.arange(SHAPE[0])[:, None, None] < 6
    inside = result.averaged.mask
    truth = {
        label: np.where(first, *values) * rng.uniform(0.99, 1.01, SHAPE) for label, values in TISSUES.items()
    }
    maps = {label: np.where(inside, values, np.nan).astype(np.float32) for label, values in truth.items()}
    signals = np.repeat(ivim_signal_maps(np.array(BVALS), **truth), 2, axis=-1).astype(np.float32)
    fit = {**maps, "f": maps["f"] * np.float32(0.9), "s0": maps["s0"] * np.float32(1.1)}
    result = replace(
        result,
        series=replace(result.series, signals=signals),
        averaged=replace(result.averaged, signals=np.where(inside[..., None], signals[..., ::2], 0)),
        estimate=replace(result.estimate, maps={**result.estimate.maps, **maps}),
        conventional=result.conventional
        and replace(result.conventional, maps={**result.conventional.maps, **fit}),
        flags=np.zeros(SHAPE, dtype=np.uint8),
    )
    write_run(result, tmp_path / "out", bids_dir=tmp_path / "bids", dataset_links={})
    return tmp_path / "out"


def table(out: Path, desc: str) -> list[dict[str, str]]:
    with (out / "sub-01" / "figures" / f"sub-01_desc-{desc}_dwi.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def report(out: Path) -> str:
    return unescape(build_report(out, "01", None).read_text(encoding="utf-8")).replace("\u00a0", " ")


def page_rows(html: str) -> list[list[str]]:
    part = html.split('-clusters">')[-1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in part.split("</tr>")[:-1]
    ]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("clusters"))


@pytest.fixture(scope="module")
def html(out) -> str:
    return report(out)


def test_clusters_are_the_tissues_and_cover_the_voxels_without_a_flag(out, html):
    rows = table(out, "clusters")
    assert sum(int(row["voxels"]) for row in rows) == (SHAPE[0] - 2) * (SHAPE[1] - 2) * SHAPE[2]
    for row in rows:
        tissue = 0 if float(row["f_median"]) > 0.2 else 1
        for label in ("f", "d", "dstar"):
            low, median, high = (
                float(row[f"{label}_{name}"]) for name in ("lower_quartile", "median", "upper_quartile")
            )
            assert TISSUES[label][tissue] * 0.985 < low <= median <= high < TISSUES[label][tissue] * 1.015
        assert float(row["lsq_f_median"]) == pytest.approx(0.9 * float(row["f_median"]), rel=1e-4)
        # Of the run's own noise: 20 for one volume, two averaged.
        bound = cramer_rao_bounds(
            np.array(BVALS),
            20 / np.sqrt(2),
            *(float(row[f"{label}_median"]) for label in ("f", "d", "dstar")),
            TISSUES["s0"][tissue],
        )
        assert float(row["dstar_bound"]) == pytest.approx(float(bound["dstar"]), rel=0.03)
    medians = [float(row["f_median"]) for row in rows]
    assert len(rows) > 1 and medians == sorted(medians, reverse=True)
    assert "Clusters are no anatomy" in html


def test_page_and_files_hold_the_same_numbers(out, html):
    for cells, row in zip(page_rows(html), table(out, "clusters"), strict=True):
        assert cells[0] == row["cluster"] and cells[1].startswith(f"{row['voxels']} (")
        for cell, label, factor in zip(cells[2:5], ("f", "d", "dstar"), (100, 1e3, 1e3), strict=True):
            low, median, high = (
                format_number(factor * float(row[f"{label}_{name}"]))
                for name in ("lower_quartile", "median", "upper_quartile")
            )
            assert cell == f"{median} ({low} – {high})"
        share = format_number(100 * float(row["dstar_bound"]) / float(row["dstar_median"]))
        assert cells[-1] == f"± {share} %, {row['dstar_precision']}"
        assert f"background:{row['color']}" in html
    for desc in ("clusters", "clusterdecay"):
        described = json.loads((out / f"sub-01/figures/sub-01_desc-{desc}_dwi.json").read_text())
        assert list(described) == ["Description", *table(out, desc)[0]]


def test_measured_and_predicted_signals_are_those_of_the_truth(out):
    rows = table(out, "clusters")
    for point in table(out, "clusterdecay"):
        tissue = 0 if float(rows[int(point["cluster"]) - 1]["f_median"]) > 0.2 else 1
        f, d, dstar, _ = (TISSUES[label][tissue] for label in ("f", "d", "dstar", "s0"))
        b = np.array([float(point["b_value"])])
        expected = float(ivim_signal_maps(b, np.array(f), np.array(d), np.array(dstar))[0])
        assert float(point["predicted_median"]) == pytest.approx(expected, rel=0.01)
        assert float(point["measured_median"]) == pytest.approx(expected, rel=0.01)
        fit = float(ivim_signal_maps(b, np.array(0.9 * f), np.array(d), np.array(dstar), 1.1)[0])
        assert float(point["lsq_predicted_median"]) == pytest.approx(fit, rel=0.01)
        low, high = (float(point[f"measured_{name}_quartile"]) for name in ("lower", "upper"))
        assert low <= float(point["measured_median"]) <= high
    assert len(table(out, "clusterdecay")) == len(rows) * len(BVALS)


def test_every_picture_says_what_it_shows(out, html):
    rows = table(out, "clusters")
    alts = re.findall(r'alt="([^"]*)"', html)
    (picture,) = (alt for alt in alts if alt.startswith(f"Voxels in {len(rows)} clusters"))
    for row in rows:
        assert f"{row['cluster']}: F {float(row['f_median']) * 100:.3g} %" in picture.replace(".0 %", " %")
        (chart,) = (alt for alt in alts if alt.startswith(f"Signal of cluster {row['cluster']} "))
        assert "the maps and least squares predict" in chart


def test_colours_get_darker_from_one_cluster_to_the_next(out):
    colours = np.array([to_rgb(row["color"]) for row in table(out, "clusters")])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    assert (np.diff(linear @ (0.2126, 0.7152, 0.0722)) < -0.05).all()


def test_everything_comes_back_from_the_derivatives(out, html):
    figures = out / "sub-01" / "figures"
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    for path in figures.iterdir():
        path.unlink()
    assert report(out) == html
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == before


@pytest.mark.parametrize("missing", ["desc-*_dwi.nii.gz", "param-s0_dwimap.nii.gz"])
def test_without_signals_or_s0_there_is_the_picture_but_no_chart(tmp_path, missing):
    out = write(tmp_path)
    for path in (out / "sub-01" / "dwi").glob(f"*{missing}"):
        path.unlink()
    run = collect_run(out, "01", None, "sub-01")
    found = find_clusters(run)
    (picture,) = cluster_pictures(run, found, plan_display(run.mask, run.affine, run.zooms))
    assert picture.title == "Clusters" and not decay_rows(found)
    assert all(
        "n/a" not in cell for row in cluster_rows(run, found) for cell in list(row["cells"].values())[:-1]
    )


def test_flagged_voxels_are_in_no_cluster_and_with_all_flagged_there_is_none(tmp_path):
    run = collect_run(write(tmp_path), "01", None, "sub-01")
    flags = np.zeros(SHAPE, dtype=int)
    flags[:6] = 1
    found = find_clusters(replace(run, flags=flags))
    assert not found.numbers[flags[run.mask] > 0].any()
    assert all(row["f_median"] < 0.2 for row in found.rows)
    assert find_clusters(replace(run, flags=flags + 1)) is None
    assert cluster_files(run, None) == [] and cluster_rows(run, None) == []


def test_without_noise_or_the_conventional_fit_their_columns_say_so(tmp_path):
    run = collect_run(write(tmp_path), "01", None, "sub-01")
    run = replace(run, sidecar={}, conventional={})
    found = find_clusters(run)
    assert all(row["dstar_bound"] is None and row["lsq_d_median"] is None for row in found.rows)
    assert all(row["cells"]["D* of one voxel"] == "n/a" for row in cluster_rows(run, found))
    assert not [head for head in cluster_rows(run, found)[0]["cells"] if "least squares" in head]
