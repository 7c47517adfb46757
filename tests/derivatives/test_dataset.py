from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from app_processes import TIMEOUT
from hostile_files import json_values, places, replaced
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app import __version__
from sicnn_app.derivatives import dataset, provenance
from sicnn_app.derivatives.atomic import WORK_FOLDER
from sicnn_app.derivatives.dataset import prepare_output
from sicnn_app.derivatives.names import group_outputs
from sicnn_app.errors import DataError, OutputError, SicnnAppError, TryAgainError, UsageError
from sicnn_app.system.locks.shared import locked_folder, shared_folder

CITATION = "# How to cite\n"


@pytest.fixture
def bids_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "bids"
    folder.mkdir()
    content = {"Name": "raw", "BIDSVersion": "1.8.0", "DatasetDOI": "doi:10.18112/openneuro.ds000001.v1.0.0"}
    (folder / "dataset_description.json").write_text(json.dumps(content))
    return folder


def description(output_dir: Path) -> dict:
    return json.loads((output_dir / "dataset_description.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_new_dataset_has_every_file_and_nothing_else(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_output(out, bids_dir, {}, citation=CITATION)
    assert sorted(path.name for path in out.iterdir()) == [
        ".bidsignore", ".sicnn-app", "CITATION.md", "README.md", "dataset_description.json",
        "descriptions.tsv", "pybids_config.json",
    ]  # fmt: skip
    assert (out / "CITATION.md").read_text() == CITATION
    told = (out / "README.md").read_text()
    named = ("desc-lsq", "desc-std", *(path.name for path in group_outputs(out) if path.suffix != ".json"))
    assert all(f"`{name}`" in told for name in named)


def test_description_says_what_made_it_from_what(
    bids_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(provenance, "container", lambda: {"Type": "docker", "Tag": "1.2.3"})
    out = tmp_path / "out"
    prepare_output(out, bids_dir, {"qsiprep": tmp_path / "qsiprep"}, citation=CITATION)
    content = description(out)
    assert content["DatasetType"] == "derivative"
    assert content["BIDSVersion"] == "1.11.1"
    (generated,) = content["GeneratedBy"]
    assert (generated["Name"], generated["Version"]) == ("sicnn-app", __version__)
    assert generated["Container"] == {"Type": "docker", "Tag": "1.2.3"}
    assert content["DatasetLinks"] == {"raw": bids_dir.as_uri(), "qsiprep": (tmp_path / "qsiprep").as_uri()}
    assert content["SourceDatasets"] == [
        {"URL": bids_dir.as_uri(), "DOI": "doi:10.18112/openneuro.ds000001.v1.0.0"},
        {"URL": (tmp_path / "qsiprep").as_uri()},
    ]


def test_link_to_the_surrounding_dataset_is_relative(bids_dir: Path):
    out = bids_dir / "derivatives" / "sicnn"
    prepare_output(out, bids_dir, {}, citation=CITATION)
    assert description(out)["DatasetLinks"] == {"raw": "../.."}
    assert (out / description(out)["DatasetLinks"]["raw"]).resolve() == bids_dir


def test_second_job_changes_nothing(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_output(out, bids_dir, {"a": tmp_path / "a"}, citation=CITATION)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.is_file()}
    prepare_output(out, bids_dir, {"a": tmp_path / "a"}, citation=CITATION)
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_links_of_earlier_jobs_and_additions_of_people_stay(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_output(out, bids_dir, {"a": tmp_path / "a", "b": tmp_path / "b"}, citation=CITATION)
    edited = description(out) | {"License": "CC0", "Name": "My maps"}
    edited["GeneratedBy"].append({"Name": "other-app", "Version": "1"})
    edited["GeneratedBy"][0]["Version"] = "0.0.1"
    (out / "dataset_description.json").write_text(json.dumps(edited))
    (out / "README.md").write_text("My notes\n")
    with (out / ".bidsignore").open("a") as file:
        file.write("notes/\n")
    with (out / "descriptions.tsv").open("a") as file:
        file.write("desc-mine\tMy own\n")

    prepare_output(out, bids_dir, {"b": tmp_path / "moved", "c": tmp_path / "c"}, citation="new\n")
    content = description(out)
    assert content["License"] == "CC0"
    assert content["Name"] == "My maps"
    assert [entry["Name"] for entry in content["GeneratedBy"]] == ["sicnn-app", "other-app"]
    assert content["GeneratedBy"][0]["Version"] == __version__
    assert content["DatasetLinks"] == {
        "raw": bids_dir.as_uri(),
        "a": (tmp_path / "a").as_uri(),
        "b": (tmp_path / "moved").as_uri(),
        "c": (tmp_path / "c").as_uri(),
    }
    urls = [entry["URL"] for entry in content["SourceDatasets"]]
    assert sorted(urls) == sorted(content["DatasetLinks"].values())
    assert (out / "README.md").read_text() == "My notes\n"
    assert (out / "CITATION.md").read_text() == "new\n"
    lines = (out / ".bidsignore").read_text().splitlines()
    assert "notes/" in lines
    assert len(lines) == len(set(lines)) == len(dataset.BIDSIGNORE) + 1
    rows = (out / "descriptions.tsv").read_text().splitlines()
    assert rows[0] == "desc_id\tdescription"
    assert "desc-mine\tMy own" in rows
    assert len(rows) == len(dataset.DESCRIPTIONS) + 2


def test_group_level_keeps_the_links_without_the_input_dataset(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_output(out, bids_dir, {"a": tmp_path / "a"}, citation=CITATION)
    before = contents(out)
    prepare_output(out, None, {}, citation=CITATION)
    after = contents(out)
    assert description(out)["DatasetLinks"] == json.loads(before["dataset_description.json"])["DatasetLinks"]
    assert len(description(out)["SourceDatasets"]) == 2
    assert set(after) == set(before)


@pytest.mark.parametrize(
    "broken", [b"{", b"[1]", b"\xff\xfe", b'{"DatasetType": "derivative", "Share": NaN}']
)
def test_broken_description_is_reported_and_not_replaced(bids_dir: Path, tmp_path: Path, broken: bytes):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_description.json").write_bytes(broken)
    with pytest.raises(DataError, match=r"dataset_description\.json.*repair or remove"):
        prepare_output(out, bids_dir, {}, citation=CITATION)
    assert contents(out) == {"dataset_description.json": broken}
    assert not (out / WORK_FOLDER).exists()


DESCRIBED = {
    "Name": "Ours",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "Prep", "Version": "1"}],
    "DatasetLinks": {"raw": "../..", "other": "../other"},
    "SourceDatasets": [{"URL": "../..", "DOI": "10.1/x"}],
}


@given(st.data())
def test_a_description_that_says_anything_is_kept_or_reported(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("out")
    content = replaced(
        DESCRIBED, data.draw(st.sampled_from(list(places(DESCRIBED)))), data.draw(json_values())
    )
    text = json.dumps(content)
    (out / "dataset_description.json").write_text(text)
    try:
        prepare_output(out, out.parent, {}, citation=CITATION)
    except SicnnAppError:
        assert (out / "dataset_description.json").read_text() == text
    else:
        assert description(out)["GeneratedBy"][0]["Name"] == "sicnn-app"


@pytest.mark.parametrize(
    "theirs", [{"SourceDatasets": "x"}, {"DatasetLinks": ["x"]}, {"GeneratedBy": {"Name": "x"}}]
)
def test_entries_that_cannot_be_merged_are_told_and_stay(bids_dir: Path, tmp_path: Path, theirs: dict):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_description.json").write_text(json.dumps({"DatasetType": "derivative", **theirs}))
    before = contents(out)
    with pytest.raises(DataError, match=f"{next(iter(theirs))} must be"):
        prepare_output(out, bids_dir, {}, citation=CITATION)
    assert contents(out) == before


def test_sources_and_links_of_any_kind_are_kept(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    theirs = [{"URL": ["a"]}, {"URL": {}}, 5, "mine"]
    links = {"raw": {"a": 1}, "other": [1]}
    described = {"DatasetType": "derivative", "SourceDatasets": theirs, "DatasetLinks": links}
    (out / "dataset_description.json").write_text(json.dumps(described))
    prepare_output(out, bids_dir, {}, citation=CITATION)
    assert description(out)["SourceDatasets"][1:] == theirs
    assert description(out)["DatasetLinks"] == {"raw": bids_dir.as_uri(), "other": [1]}


def test_a_raw_dataset_never_becomes_a_derivative(bids_dir: Path):
    before = contents(bids_dir)
    with pytest.raises(UsageError, match="no derivative"):
        prepare_output(bids_dir, bids_dir, {}, citation=CITATION)
    assert contents(bids_dir) == before


def test_no_derivative_may_take_the_name_of_the_input(bids_dir: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="'raw'"):
        prepare_output(tmp_path / "out", bids_dir, {"raw": tmp_path / "a"}, citation=CITATION)


def test_output_that_cannot_be_created_is_an_output_error(bids_dir: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out"):
        prepare_output(tmp_path / "file" / "out", bids_dir, {}, citation=CITATION)


def _job(out: Path, bids_dir: Path, index: int, start: multiprocessing.synchronize.Barrier) -> None:
    start.wait()
    for repeat in range(5):
        prepare_output(
            out, bids_dir, {f"job{index}x{repeat}": bids_dir / f"{index}-{repeat}"}, citation=CITATION
        )


def test_parallel_jobs_lose_no_link(bids_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    jobs = [context.Process(target=_job, args=(out, bids_dir, index, start)) for index in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(TIMEOUT)
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
    names = {f"job{index}x{repeat}" for index in range(4) for repeat in range(5)}
    assert set(description(out)["DatasetLinks"]) == {"raw", *names}
    assert not (out / WORK_FOLDER).exists()


def test_lock_of_a_process_that_never_ends_is_try_again(
    bids_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dataset, "LOCK_TIMEOUT", 0.2)
    work = tmp_path / "work"
    with (
        locked_folder(shared_folder(work, "dataset", tmp_path / "out")),
        pytest.raises(TryAgainError, match=f"pid {os.getpid()}"),
    ):
        prepare_output(tmp_path / "out", bids_dir, {}, citation=CITATION, work_dir=work)
    prepare_output(tmp_path / "out", bids_dir, {}, citation=CITATION, work_dir=work)
    assert not work.exists()


@pytest.mark.parametrize(
    ("environ", "marks", "expected"),
    [
        ({}, [], None),
        ({}, [".dockerenv"], {"Type": "docker"}),
        ({"SICNN_APP_CONTAINER_TAG": "1.2.3-cpu"}, [".dockerenv"], {"Type": "docker", "Tag": "1.2.3-cpu"}),
        ({"SICNN_APP_CONTAINER_TAG": "1.2.3"}, [], {"Type": "docker", "Tag": "1.2.3"}),
        ({"APPTAINER_CONTAINER": "/home/me/app.sif"}, [], {"Type": "apptainer"}),
        (
            {"SINGULARITY_CONTAINER": "/app.sif", "SICNN_APP_CONTAINER_TAG": "1"},
            [".dockerenv"],
            {"Type": "apptainer", "Tag": "1"},
        ),
        ({}, ["run/.containerenv"], {"Type": "podman"}),
    ],
)
def test_container_is_recognised(
    tmp_path: Path, environ: dict[str, str], marks: list[str], expected: dict[str, str] | None
):
    for mark in marks:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert provenance.container(environ, tmp_path) == expected


def test_versions_name_the_app_and_what_computes():
    versions = provenance.software_versions()
    assert versions["sicnn-app"] == __version__
    assert {"python", "torch", "numpy", "nibabel"} <= set(versions)
    assert all(versions.values())


def test_bare_cpu_is_named_by_its_model(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A CPU 42\n")
    assert provenance.cpu_name(cpuinfo) == "A CPU 42"
    assert provenance.cpu_name(tmp_path / "absent")
    assert provenance.device_name("cpu") == f"cpu {provenance.cpu_name()}"
    assert provenance.device_name("cuda:0 NVIDIA H200") == "cuda:0 NVIDIA H200"
