"""One broken or crafted run is left out and named; all others are gathered."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_runs import App
from bids_datasets import Dataset
from group_runs import (
    SHAPE,
    add_run,
    add_segmentation,
    gather,
    group_files,
    map_path,
    qc_path,
    sidecar,
    table,
)
from hostile_files import IN_PLACE, SECRET, change_json, json_values, places, replaced, save, save_bomb
from hypothesis import given, settings
from hypothesis import strategies as st

from sicnn_app.bids.segmentations import Segmentation, load_regions
from sicnn_app.cli.main import main
from sicnn_app.errors import DataError
from sicnn_app.group import gather as gathering
from sicnn_app.group.write import read_earlier


@pytest.fixture
def app(capsys) -> App:
    return App(capsys)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    """Output folder with the runs of two participants."""
    tmp_path = tmp_path_factory.mktemp("runs")
    add_run(tmp_path, sub="1")
    return add_run(tmp_path, sub="2", seed=1)


@pytest.fixture
def out(two_runs, tmp_path) -> Path:
    return Path(shutil.copytree(two_runs, tmp_path / "data" / "out", symlinks=True))


def marker(out: Path, name: str = "sub-1") -> Path:
    return qc_path(out, name).with_suffix(".json")


def left_out(app: App, out: Path) -> str:
    """What is said of the only run that is left out."""
    call = gather(app, out)
    assert call.code == 1, call.text
    assert [row["source"] for row in table(out)] == ["sub-2"]
    (entry,) = sidecar(out)["LeftOut"]
    assert entry["Run"] == "sub-1" and entry["Reason"] in call.err
    assert SECRET not in "".join(map(str, group_files(out).values()))
    return entry["Reason"]


@pytest.mark.parametrize("how", IN_PLACE)
@pytest.mark.parametrize("which", ["ivim_qc.json", "ivim_qc.tsv", "f_dwimap.nii.gz", "f_dwimap.json"])
def test_what_is_no_file_of_the_folder_is_not_read(app, out, which, how):
    place = map_path(out, "sub-1", "f").parent
    (path,) = place.glob(f"*[_-]{which}")
    IN_PLACE[how](path)
    assert "sub-1" in left_out(app, out)


@pytest.mark.parametrize(
    "outputs",
    [
        ["/etc/passwd"],
        ["../../dataset_description.json"],
        ["sub-2_desc-ivim_qc.json"],
        ["sub-1_x\0y"],
        ["sub-1_" + "x" * 5000],
        [["sub-1_desc-ivim_qc.json"], None],
        {"sub-1_desc-ivim_qc.json": 1},
        "sub-1_desc-ivim_qc.json",
        7,
        [],
    ],
    ids=str,
)
def test_outputs_that_are_not_the_run_s_own_are_not_looked_at(app, out, outputs):
    change_json(marker(out), lambda content: content.update(Outputs=outputs))
    assert "sub-1" in left_out(app, out)


MAPS = {
    "five dimensions": (np.ones((*SHAPE, 2, 2), np.float32), "4 dimensions"),
    "four dimensions": (np.ones((*SHAPE, 2), np.float32), "three dimensions"),
    "another shape": (np.ones((6, 7, 3), np.float32), "another shape"),
    "colours": (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
    "complex": (np.ones(SHAPE, np.complex64), "complex64"),
    "infinite": (np.full(SHAPE, np.inf, np.float32), "hold no number"),
    "beyond measure": (np.full(SHAPE, 3e38, np.float32), "hold no number"),
    "beyond float32": (np.full(SHAPE, 1e300), "hold no number"),
}


@pytest.mark.parametrize("what", MAPS)
def test_a_map_that_is_none_leaves_its_run_out(app, out, what):
    values, reason = MAPS[what]
    save(map_path(out, "sub-1", "f"), values)
    assert reason in left_out(app, out)


def test_a_small_file_of_ten_gigabytes_is_refused_before_it_takes_memory(app, out):
    path = map_path(out, "sub-1", "f")
    save_bomb(path, (1400, 1400, 1400))
    assert path.stat().st_size < 12 << 20
    tracemalloc.start()
    try:
        reason = left_out(app, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "(1400, 1400, 1400)" in reason and peak < 100 << 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"method\n" + b"x" * (17 << 20), "16 MB"),
        (b"method\n" + b"x" * (1 << 20), "no table"),
        (b"method\n" + b"1\n" * 1_000_001, "cells"),
        (b"\t".join(b"c%d" % number for number in range(2000)) + b"\n" + b"1\n" * 1000, "cells"),
        (b"method\tmethod\nlsq\tlsq\n", "same name"),
        (b"method\n\xff\n", "UTF-8"),
    ],
    ids=["long", "one cell", "rows", "columns", "twice", "no text"],
)
def test_a_table_that_is_too_much_or_none_leaves_its_run_out(app, out, content, reason):
    qc_path(out, "sub-1").write_bytes(content)
    assert reason in left_out(app, out)


@pytest.mark.parametrize(
    "content",
    [b"", b"method\n", b"method\t\0\n\0\t\0\n", b'method\tb_values\n"lsq\t6\n', b"method\nlsq\t1\t2\n"],
)
def test_a_table_that_lacks_cells_leaves_cells_out(app, out, content):
    qc_path(out, "sub-1").write_bytes(content)
    call = gather(app, out)
    assert call.code == 0, call.text
    assert list(sidecar(out)["Runs"]) == ["sub-1", "sub-2"]


def test_text_of_a_run_can_neither_command_a_terminal_nor_a_spreadsheet(app, out):
    qc_path(out, "sub-1").write_text("method\tstop_reason\n=HYPERLINK(1)\t\x1b[2J\u202ex" + "y" * 5000 + "\n")
    call = gather(app, out)
    assert call.code == 0
    row = table(out)[0]
    assert row["method"] == "'=HYPERLINK(1)" and row["stop_reason"].startswith("\\x1b[2J\\u202ex")
    assert len(row["stop_reason"]) < 300 and "\x1b" not in call.text


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_value_in_a_sidecar_ends_the_others(two_runs, data):
    path = data.draw(st.sampled_from([marker(two_runs), map_path(two_runs, "sub-1", "f", "dwimap.json")]))
    good = path.read_bytes()
    content = json.loads(good)
    place = data.draw(st.sampled_from(list(places(content))))
    path.write_text(json.dumps(replaced(content, place, data.draw(json_values()))))
    try:
        assert main([str(two_runs), str(two_runs), "group", "--overwrite"]) in (0, 1)
    finally:
        path.write_bytes(good)
    assert "sub-2" in [row["source"] for row in table(two_runs)]


@pytest.mark.parametrize("text", ['"x": 1e999', '"x": NaN', f'"x": {"9" * 400}', '"\\udfff": "\\ud800"'])
def test_numbers_and_letters_that_json_alone_can_write_end_nothing(app, out, text):
    path = marker(out)
    path.write_text(path.read_text().replace('"Settings": {', f'"Settings": {{{text},'))
    call = gather(app, out)
    assert call.code == 0, call.text


def test_deep_nesting_leaves_the_run_out(app, out):
    nested = json.loads("[" * 400 + "]" * 400)
    change_json(marker(out), lambda content: content["Settings"].update(x=nested))
    assert "nested too deeply" in left_out(app, out)


def test_an_error_nobody_thought_of_is_that_of_one_run(app, out, monkeypatch):
    measure = gathering.region_rows

    def fail(item, *rest):
        return 1 / 0 if item.subject == "1" else measure(item, *rest)

    monkeypatch.setattr(gathering, "region_rows", fail)
    reason = left_out(app, out)
    log = max((out / "logs").glob("*.log"))
    assert "ZeroDivisionError" in reason and log.name in reason
    assert "Traceback" in log.read_text()
    shutil.rmtree(out / "sub-2")
    assert gather(app, out).code == 70


@pytest.mark.parametrize("label", ["[1]", "**", 'x"><img src=x>', "a\nb\x1b[2J", "a_b"])
def test_a_folder_with_no_label_is_none_of_ours(app, out, label):
    shutil.copytree(out / "sub-1", out / f"sub-{label}")
    (out / "sub-1" / "dwi" / f"sub-1_acq-{label}_desc-ivim_qc.json").write_text("{}")
    call = gather(app, out)
    assert call.code == 0, call.text
    assert [row["source"] for row in table(out)] == ["sub-1", "sub-2"]


# the table of the last call


def short_row(rows: list[list[str]], _: dict) -> None:
    rows[1] = rows[1][:5]


def long_row(rows: list[list[str]], _: dict) -> None:
    rows[1].append("x")


def two_columns_of_one_name(rows: list[list[str]], _: dict) -> None:
    for row in rows:
        row.append(row[0])


def runs_as_list(_: list[list[str]], content: dict) -> None:
    content["Runs"] = [1]


def warnings_as_number(_: list[list[str]], content: dict) -> None:
    content["Runs"]["sub-1"]["Warnings"] = 7


@pytest.mark.parametrize(
    "tamper", [short_row, long_row, two_columns_of_one_name, runs_as_list, warnings_as_number]
)
def test_a_last_table_that_is_not_as_it_was_written_is_not_reused(
    app, out, tamper: Callable[[list[list[str]], dict], None]
):
    assert gather(app, out).code == 0
    files = group_files(out)
    path = out / "group_ivim.tsv"
    rows, content = [line.split("\t") for line in path.read_text().splitlines()], sidecar(out)
    tamper(rows, content)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    path.with_suffix(".json").write_text(json.dumps(content))
    tampered = group_files(out)
    assert read_earlier(out) == {}
    assert gather(app, out).code == 73
    assert group_files(out) == tampered
    for ending in (".tsv", ".json"):
        path.with_suffix(ending).unlink()
    assert "0 of them unchanged" in gather(app, out).out
    assert group_files(out) == files


@pytest.mark.parametrize("name", ["group_ivim.tsv", "group_ivim.json"])
@pytest.mark.parametrize("how", ["a pipe", "a link to itself", "20 GB"])
def test_what_stands_in_the_place_of_the_last_table_is_told_at_once(app, out, name, how):
    IN_PLACE[how](out / name)
    others = {path: path.lstat() for path in out.glob("group*")}
    call = gather(app, out)
    assert call.code == 73 and name in call.err
    assert {path: path.lstat() for path in out.glob("group*")} == others


# regions


@pytest.fixture
def rois(out, tmp_path) -> Dataset:
    """Derivative dataset with a segmentation of the first run."""
    made = Dataset(tmp_path / "rois", kind="derivative")
    labels = np.ones(SHAPE, dtype=int)
    add_segmentation(made, "sub-1/dwi/sub-1_desc-organs", labels, map_path(out, "sub-1", "f"))
    return made


def test_names_of_regions_are_printable_and_of_bounded_length(app, out, rois):
    rois.write("desc-organs_dseg.tsv", "index\tname\n1\t=cmd()\x1b[2J" + "x" * 5000 + "\n")
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0 and "\x1b" not in call.text
    region = table(out)[1]["region"]
    assert region.startswith("'=cmd()\\x1b[2Jxxx") and len(region) < 300
    assert not any(b"\x1b" in content for content in group_files(out).values())


@pytest.mark.parametrize(
    ("lookup", "reason"),
    [
        ("index\tname\n" + "1\ta\n" * 600_000, "cells"),
        ("index\tname\tname\n1\ta\tb\n", "same name"),
        ("index\tname\n" + "9" * 5000 + "\ta\n", "holds no index in line 2"),
        ("name\tindex\nliver\n", "holds no index in line 2"),
    ],
    ids=["rows", "twice", "huge", "short row"],
)
def test_a_lookup_table_that_is_none_is_a_warning(app, out, rois, lookup, reason):
    rois.write("desc-organs_dseg.tsv", lookup)
    call = gather(app, out, "-d", rois.root)
    assert call.code == 0 and reason in call.err and call.err.count("\n") == 1
    assert {row["region"] for row in table(out)} == {"mask"}


def test_a_segmentation_of_ten_gigabytes_or_of_elsewhere_is_a_warning(app, out, rois):
    path = rois.root / "sub-1" / "dwi" / "sub-1_desc-organs_dseg.nii.gz"
    save_bomb(path, (1400, 1400, 1400))
    assert "(1400, 1400, 1400)" in gather(app, out, "-d", rois.root).err
    save(path, np.ones((20, 20, 20), np.int16))
    assert "check its position" in gather(app, out, "-d", rois.root).err
    assert {row["region"] for row in table(out)} == {"mask"}


def test_a_region_per_voxel_is_no_segmentation(tmp_path):
    labels = np.arange(20**3, dtype=np.int16).reshape(20, 20, 20)
    path = tmp_path / "sub-1_dseg.nii.gz"
    save(path, labels)
    with pytest.raises(DataError, match="8,000 regions"):
        load_regions(Segmentation("rois", path, None), path, labels >= 0)
