"""Whatever a dataset says reaches the report as text, and nothing of it as markup."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from factories import make_result

from sicnn_app.bids.write import write_run
from sicnn_app.report.html import build_report

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\u202e\x1b\u2066'
MARKS = ("<script>alert", "<img src=x", ">49<", "\u202e", "\x1b", "\u2066")


def poisoned(content):
    """The same JSON with every text replaced, except the few that are no text but a choice."""
    if isinstance(content, dict):
        return {
            key: value if key in ("Outputs", "Fingerprint") else poisoned(value)
            for key, value in content.items()
        } | {f"Key {HOSTILE}": HOSTILE}
    if isinstance(content, list):
        return [poisoned(item) for item in content]
    return HOSTILE if isinstance(content, str) else content


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    tmp_path = tmp_path_factory.mktemp("hostile")
    out = tmp_path / "out"
    result = replace(
        make_result(tmp_path, shape=(6, 7, 1), comparison=True), warnings=[HOSTILE], mask_source=HOSTILE
    )
    write_run(result, out, bids_dir=tmp_path / "bids", dataset_links={})
    for path in out.rglob("*.json"):
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    for path in out.rglob("*_qc.tsv"):
        head, *rows = path.read_text().splitlines()
        cells = [
            "\t".join(HOSTILE if not _number(cell) else cell for cell in row.split("\t")) for row in rows
        ]
        path.write_text("\n".join([head, *cells]) + "\n")
    build_report(out, "01", None, errors=[f"sub-01: {HOSTILE}"], interactive=True)
    pages = [out / "sub-01.html", *out.glob("sub-01/figures/*.html")]
    assert len(pages) == 2
    return "".join(path.read_text(encoding="utf-8") for path in pages)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_nothing_of_it_is_markup(page):
    assert not [mark for mark in MARKS if mark in page]


def test_but_it_can_be_read(page):
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20


def test_a_damaged_table_or_sidecar_is_named_by_its_file_only(tmp_path: Path):
    out = tmp_path / "out"
    write_run(make_result(tmp_path, shape=(6, 7, 1)), out, bids_dir=tmp_path / "bids", dataset_links={})
    for path in out.rglob("*_param-f_dwimap.json"):
        path.write_text('{"Model": <script>alert(1)</script>')
    page = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "param-f_dwimap.json cannot be read" in page
    assert "<script>" not in page and str(tmp_path) not in page
