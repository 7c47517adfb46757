"""Ratings of reviewers at the level of the group: what counts, what is left out, and what is told."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from app_runs import App
from group_runs import add_run, gather, group_files, sidecar, strips, table

from sicnn_app.derivatives.ratings import rating_name

RUNS = 5
F_CHART = "F, perfusion fraction"


@pytest.fixture
def app(capsys) -> App:
    return App(capsys)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Five participants with two sessions, one of them far too high."""
    folder = tmp_path_factory.mktemp("rated")
    for subject in range(1, RUNS + 1):
        for session in (1, 2):
            factor = 3.0 if (subject, session) == (3, 1) else 1.0 + 0.01 * subject + 0.002 * session
            out = add_run(folder, sub=str(subject), ses=str(session), factor=factor)
    return out


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "ratings"
    made.mkdir()
    return made


def rate(folder: Path, run: str, rating: str, reviewer: str = "AB", *, day: int = 1, **others) -> Path:
    """Write a rating as the box of a report downloads it."""
    path = folder / f"{reviewer}{day}" / rating_name(run)
    path.parent.mkdir(exist_ok=True)
    content = {"Run": run, "Rating": rating, "Reviewer": reviewer, "Date": f"2026-11-{day:02}T14:00:00Z"}
    path.write_text(json.dumps({**content, **others}), encoding="utf-8")
    return path


def page(out: Path) -> str:
    return unescape((out / "group.html").read_text(encoding="utf-8"))


def box(html: str, title: str) -> str:
    return html.split(f"<h3>{title}")[1].split("</ul>")[0]


def test_an_unusable_run_is_shown_apart_and_left_out_of_what_is_said_of_all(app, out, folder):
    gather(app, out)
    before = {row["source"]: row for row in table(out)}
    rate(folder, "sub-3_ses-1", "unusable", Reasons=["noise", "motion"], Note="=1+1\tcut")
    call = gather(app, out, "--ratings", folder)
    assert call.code == 0 and not call.err
    rows = {row["source"]: row for row in table(out)}
    assert [rows["sub-3_ses-1"][f"rating{end}"] for end in ("", "_reasons", "_reviewers", "_notes")] == [
        "unusable",
        "motion, noise",
        "AB: unusable",
        "'=1+1 cut",
    ]
    assert rows["sub-1_ses-1"]["rating"] == "n/a"
    # What was measured of the run itself stays.
    assert rows["sub-3_ses-1"]["f_median"] == before["sub-3_ses-1"]["f_median"]
    assert before["sub-3_ses-1"]["outliers"] != "n/a" == rows["sub-3_ses-1"]["outliers"]
    values = [float(row["f_median"]) for name, row in rows.items() if name != "sub-3_ses-1"]
    (record,) = [item for item in sidecar(out)["Distributions"] if item["Column"] == "f_median"]
    assert record["Runs"] == len(values)
    assert record["Quartiles"] == pytest.approx(np.percentile(values, (25, 50, 75)).tolist())
    assert {row["participants"] for row in table(out, "group_repeatability")} == {str(RUNS - 1)}
    html = page(out)
    found = strips(html, F_CHART)
    assert list(found["apart"]["values"]) == ["sub-3_ses-1"] and found["apart"]["box"] is None
    assert "sub-3_ses-1" not in found["own"]["values"] and len(found["own"]["values"]) == 2 * RUNS - 1
    assert "sub-3_ses-1" in box(html, "Rated unusable")
    assert "unusable: motion, noise</td>" in html
    assert "<dt>Rated good / doubtful / unusable</dt><dd>0 / 0 / 1</dd>" in html


@pytest.mark.parametrize(
    ("given", "counts", "disagree"),
    [
        # Reviewer, rating, day.
        ([("AB", "good", 1), ("CD", "unusable", 2), ("EF", "doubtful", 3)], "unusable", True),
        ([("AB", "unusable", 1), ("AB", "good", 2)], "good", False),
        ([("AB", "good", 2), ("ab ", "doubtful", 1)], "good", False),
        ([("", "unusable", 1), ("", "good", 2)], "unusable", True),
        ([("AB", "doubtful", 1), ("CD", "doubtful", 1)], "doubtful", False),
    ],
)
def test_the_last_of_a_reviewer_and_the_worst_of_all_counts(app, out, folder, given, counts, disagree):
    for reviewer, rating, day in given:
        rate(folder, "sub-1_ses-1", rating, reviewer, day=day)
    assert gather(app, out, "--ratings", folder).code == 0
    assert table(out)[0]["rating"] == counts
    assert ("Reviewers disagree" in page(out)) == disagree
    if disagree:
        line = box(page(out), "Reviewers disagree")
        assert all(f"{reviewer or 'unnamed'}: {rating}" in line for reviewer, rating, _ in given)


def test_files_that_are_no_ratings_are_told_and_the_others_count(app, out, folder, tmp_path):
    rate(folder, "sub-1_ses-1", "good")
    bad = rate(folder, "sub-2_ses-1", "fine")
    broken = folder / "x_desc-rating(1).json"
    broken.write_text("{")
    rate(folder, "sub-77", "good")
    call = gather(app, out, "--ratings", folder)
    assert call.code == 1
    assert f"{bad}: Rating is 'fine'" in call.err and f"{broken} is not valid JSON" in call.err
    assert "rated, but not among these runs: sub-77" in call.text
    assert [row["rating"] for row in table(out)[:2]] == ["good", "n/a"]
    left_out = box(page(out), "Files of --ratings left out")
    assert "AB1/sub-2_ses-1_desc-rating.json: Rating is 'fine'" in left_out and broken.name in left_out
    assert sidecar(out)["Ratings"]["Files"] == 2 and len(sidecar(out)["Ratings"]["LeftOut"]) == 2
    assert str(tmp_path).encode() not in b"".join(group_files(out).values())
    files = group_files(out)
    assert gather(app, out, "--ratings", folder, "--dry-run").code == 1
    assert gather(app, out, "--ratings", folder, "--stop-on-first-crash").code == 65
    assert group_files(out) == files


def test_a_folder_without_ratings_is_66_and_the_flag_is_for_the_group(app, out, folder, tmp_path):
    for place, words in (
        (folder, "holds no file *_desc-rating*.json"),
        (tmp_path / "none", "does not exist"),
        (rate(tmp_path, "sub-1_ses-1", "good"), "is no folder"),
    ):
        call = gather(app, out, "--ratings", place)
        assert call.code == 66 and f"{place} {words}" in call.err
    call = app.raw(out.parent, tmp_path / "new", "participant", "--ratings", folder)
    assert call.code == 64 and "--ratings is for the level group" in call.err


def test_ratings_belong_to_the_call_and_not_to_the_rows_that_are_kept(app, out, folder):
    gather(app, out)
    plain = group_files(out)
    rate(folder, "sub-1_ses-1", "unusable")
    call = gather(app, out, "--ratings", folder)
    assert f"{2 * RUNS} of them unchanged" in call.out
    rated = group_files(out)
    assert gather(app, out, "--ratings", folder, "--overwrite").code == 0
    assert group_files(out) == rated != plain
    gather(app, out)
    assert group_files(out) == plain


def test_where_every_run_is_unusable_there_is_still_a_page(app, tmp_path, folder):
    out = add_run(tmp_path, sub="1", comparison=True)
    rate(folder, "sub-1", "unusable")
    assert gather(app, out, "--ratings", folder).code == 0
    assert list(strips(page(out), F_CHART)) == ["apart", "apart fit"]
    assert sidecar(out)["Distributions"] == []
