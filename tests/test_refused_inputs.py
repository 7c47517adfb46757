"""Whatever is bad gets its exit code and one clear line, and stops nobody else.

Runs are refused one by one, so all bad ones stand in one dataset, a participant each, that is processed
once beside a good one and, kind by kind, without. Datasets, outputs and flags end a call: one each.
"""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import (
    BVALS,
    QUICK,
    App,
    Call,
    add_mask,
    add_run,
    body,
    command,
    dataset,
    environment,
    values,
)
from bids_datasets import Dataset

from sicnn_app.report import html

SHAPE = (12, 10, 2)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
GOOD = "sub-good"
SECONDS = 300


@pytest.fixture
def app(capsys) -> App:
    return App(capsys)


APART = """
import resource
import sys
from pathlib import Path

import dipy.denoise.localpca, matplotlib.pyplot, torch
from sicnn_app.cli.main import main
from sicnn_app.report import html

html.build_report = lambda output, subject, session, **_: html.report_path(output, subject, session)
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (768 << 20), mapped + (768 << 20)))
sys.exit(main(sys.argv[1:]))
"""
"""The app with 768 MB besides its libraries, and without reports, which take longest of all."""


def call_process(words: Sequence[str | Path], **variables: str) -> Call:
    """Run a command until its end or a deadline."""
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment(**variables),
    )
    return Call(done.returncode, done.stdout, done.stderr)


def call_apart(*argv: str | Path, prefix: Sequence[str | Path] = ()) -> Call:
    """Call the app in a process of its own with little memory and a deadline."""
    return call_process([*prefix, sys.executable, "-c", APART, *argv])


def message(call: Call) -> str:
    """The error of a call: what follows the program's name, at most two lines, nothing of Python."""
    assert "Traceback" not in call.text
    _, found, text = call.err.partition("sicnn-app: ")
    assert found, call.text
    assert len(text.strip().splitlines()) <= 2, text
    return text


# Runs --------------------------------------------------------------------------------------------------


def image_of(made: Dataset, name: str, ending: str = ".nii.gz") -> Path:
    return made.root / name / "dwi" / f"{name}_dwi{ending}"


def with_image(**options) -> Callable[[Dataset, str], None]:
    """A run whose voxels or b-values are others."""

    def make(made: Dataset, name: str) -> None:
        add_run(made, name, **options)

    return make


def with_content(content: bytes, ending: str = ".nii.gz") -> Callable[[Dataset, str], None]:
    """A run one of whose files holds something else."""

    def make(made: Dataset, name: str) -> None:
        add_run(made, name)
        if ending == ".nii":
            image_of(made, name).unlink()
        image_of(made, name, ending).write_bytes(content)

    return make


def without_file(place: Callable[[Path], object], ending: str = ".nii.gz") -> Callable[[Dataset, str], None]:
    """A run one of whose files is no file but what ``place`` puts there."""

    def make(made: Dataset, name: str) -> None:
        add_run(made, name)
        path = image_of(made, name, ending)
        path.unlink(missing_ok=True)
        place(path)

    return make


def with_header(*, compressed: bool = True, cut: int = 0, **fields) -> Callable[[Dataset, str], None]:
    """A run whose header says something else, in whatever way nibabel would refuse to write it."""

    def make(made: Dataset, name: str) -> None:
        path = add_run(made, name)
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = np.ndarray((), nib.nifti1.header_dtype, buffer=content)
        for field, value in fields.items():
            header[field] = value
        path.unlink()
        kept = bytes(content[: len(content) - cut])
        if compressed:
            path.write_bytes(gzip.compress(kept))
        else:
            path.with_suffix("").write_bytes(kept)

    return make


def truncated(ending: str, share: float) -> Callable[[Dataset, str], None]:
    def make(made: Dataset, name: str) -> None:
        path = add_run(made, name)
        content = path.read_bytes()
        if ending == ".nii":
            path.unlink()
            content = gzip.decompress(content)
        image_of(made, name, ending).write_bytes(content[: int(share * len(content))])

    return make


def with_mask(mask: np.ndarray | bytes, shift: float = 0.0) -> Callable[[Dataset, str], None]:
    """A run for which the derivative dataset beside holds this mask."""

    def make(made: Dataset, name: str) -> None:
        add_run(made, name)
        root = made.root.parent / "masks"
        add_mask(root, name, np.ones(SHAPE))
        path = root / name / "dwi" / f"{name}_desc-body_mask.nii.gz"
        if isinstance(mask, bytes):
            path.write_bytes(mask)
        else:
            affine = AFFINE + shift * np.eye(4)[:, [3, 0, 1, 2]].T
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)

    return make


def lying_mask(made: Dataset, name: str) -> None:
    with_mask(np.ones(SHAPE))(made, name)
    path = made.root.parent / "masks" / name / "dwi" / f"{name}_desc-body_mask.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    np.ndarray((), nib.nifti1.header_dtype, buffer=content)["dim"] = (3, 32767, 32767, 32767, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)))


def several_masks(made: Dataset, name: str) -> None:
    with_mask(np.ones(SHAPE))(made, name)
    folder = made.root.parent / "masks" / name / "dwi"
    shutil.copy(folder / f"{name}_desc-body_mask.nii.gz", folder / f"{name}_desc-brain_mask.nii.gz")


def mask_not_fetched(made: Dataset, name: str) -> None:
    with_mask(np.ones(SHAPE))(made, name)
    path = made.root.parent / "masks" / name / "dwi" / f"{name}_desc-body_mask.nii.gz"
    path.unlink()
    path.symlink_to("../.git/annex/objects/none")


def two_tables(made: Dataset, name: str) -> None:
    path = add_run(made, name, bvals=None)
    path.rename(path.with_name(f"{name}_acq-a_run-1_dwi.nii.gz"))
    for entity in ("acq-a", "run-1"):
        path.with_name(f"{name}_{entity}_dwi.bval").write_text(" ".join(map(str, BVALS)))


def bomb(made: Dataset, name: str) -> None:
    """Three megabytes of which the voxels are the first part, and a gigabyte of zeros the second."""
    path = add_run(made, name)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 30), 1))


def mgh(made: Dataset, name: str) -> None:
    path = add_run(made, name)
    nib.save(nib.MGHImage(body(), AFFINE), path.with_name("image.mgz"))
    path.with_name("image.mgz").rename(path)


def analyze(made: Dataset, name: str) -> None:
    path = add_run(made, name)
    path.unlink()
    nib.save(nib.AnalyzeImage(body(), AFFINE), path.with_name("image.img"))
    header, voxels = (path.with_name(f"image.{end}") for end in ("hdr", "img"))
    image_of(made, name, ".nii").write_bytes(header.read_bytes() + voxels.read_bytes())
    header.unlink()
    voxels.unlink()


def bind(path: Path) -> None:
    # The name of a socket may have 107 bytes, which the folders of tests exceed.
    with socket.socket(socket.AF_UNIX) as server:
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(path.parent)
            server.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)


def pointer(path: Path) -> None:
    path.write_text("/annex/objects/MD5E-s3000--0123456789.nii.gz\n")


def dangling(path: Path) -> None:
    path.symlink_to("../../.git/annex/objects/none")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@dataclass(frozen=True)
class Bad:
    """One bad run: how it is made, the words its message must have, and the exit code."""

    make: Callable[[Dataset, str], None]
    words: tuple[str, ...]
    code: int = 65


def bad(make: Callable[[Dataset, str], None], *words: str, code: int = 65) -> Bad:
    return Bad(make, words, code)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(500)
RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
FEW = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 800.0)
HIGH = tuple(b + 300 for b in BVALS)
NOT_FETCHED = ("datalad get",)

RUNS = {
    # Files that hold no image, or not all of it.
    "TruncatedGzip": bad(truncated(".nii.gz", 0.6), "_dwi.nii.gz", "copy it again"),
    "TruncatedGzipHeader": bad(truncated(".nii.gz", 0.005), "_dwi.nii.gz", "copy it again"),
    "TruncatedPlain": bad(truncated(".nii", 0.6), "_dwi.nii ", "truncated", "copy it again"),
    "TruncatedPlainHeader": bad(truncated(".nii", 0.005), "_dwi.nii ", "copy it again"),
    "EmptyGzip": bad(with_content(b""), "_dwi.nii.gz", "empty", "copy it again"),
    "EmptyPlain": bad(with_content(b"", ".nii"), "_dwi.nii ", "empty", "copy it again"),
    "EmptyStream": bad(with_content(gzip.compress(b"")), "_dwi.nii.gz", "copy it again"),
    "Png": bad(with_content(PNG), "_dwi.nii.gz", "not compressed", "rename"),
    "PngPlain": bad(with_content(PNG, ".nii"), "_dwi.nii ", "NIfTI"),
    "Text": bad(with_content(b"no image"), "_dwi.nii.gz", "not compressed", "rename"),
    "TextGzip": bad(with_content(gzip.compress(b"no image" * 99)), "_dwi.nii.gz", "NIfTI"),
    "Mgh": bad(mgh, "_dwi.nii.gz", "convert"),
    "Analyze": bad(analyze, "_dwi.nii ", "convert"),
    # Headers that lie.
    "LyingVolumes": bad(with_header(dim=(4, 12, 10, 2, 9, 1, 1, 1)), "9 volumes", "8 b-values", ".bval"),
    "LyingSlices": bad(with_header(dim=(4, 12, 10, 9, 8, 1, 1, 1)), "_dwi.nii.gz", "promises"),
    "Gigantic": bad(with_header(dim=(4, 32767, 32767, 32767, 8, 1, 1, 1)), "_dwi.nii.gz", "promises"),
    "GiganticPlain": bad(
        with_header(compressed=False, dim=(4, 32767, 32767, 32767, 8, 1, 1, 1)), "_dwi.nii", "promises"
    ),
    "ZeroSize": bad(with_header(dim=(4, 12, 0, 2, 8, 1, 1, 1)), "_dwi.nii.gz", "shape"),
    "NegativeSize": bad(with_header(dim=(4, 12, -10, 2, 8, 1, 1, 1)), "_dwi.nii.gz"),
    "NineDimensions": bad(with_header(dim=(9, 12, 10, 2, 8, 1, 1, 1)), "_dwi.nii.gz"),
    "NoType": bad(with_header(datatype=7777), "_dwi.nii.gz"),
    "OffsetNan": bad(with_header(vox_offset=np.nan), "_dwi.nii.gz"),
    "OffsetNegative": bad(with_header(vox_offset=-1e4), "_dwi.nii.gz"),
    "OffsetInHeader": bad(with_header(magic=b"ni1", vox_offset=0), "_dwi.nii.gz", "byte 0", "convert"),
    "OffsetFar": bad(with_header(vox_offset=1e15), "_dwi.nii.gz", "promises"),
    "PlaceNan": bad(with_header(srow_x=(np.nan, 0, 0, 0), sform_code=1), "_dwi.nii.gz", "sform"),
    # Voxels of a kind that no DWI has.
    "Complex": bad(with_image(data=body().astype(np.complex64)), "_dwi.nii.gz", "complex", "magnitude"),
    "Rgb": bad(with_image(data=RGB), "_dwi.nii.gz", "colour", "magnitude"),
    "Zeros": bad(with_image(data=np.zeros((*SHAPE, 8))), "_dwi.nii.gz", "only zeros"),
    "Nan": bad(with_image(data=np.full((*SHAPE, 8), np.nan, np.float32)), "_dwi.nii.gz", "only NaN"),
    "FiveDimensions": bad(
        with_image(data=np.stack([body(), body()], axis=-1)), "_dwi.nii.gz", "4 dimensions"
    ),
    # b-values.
    "Count": bad(with_image(bvals=BVALS[:-1]), "8 volumes", "7 b-values", "_dwi.bval"),
    "Letters": bad(
        with_content(b"0 0 ten 50 100 200 400 800", ".bval"), "_dwi.bval", "line 1, word 3", "numbers only"
    ),
    "Commas": bad(with_content(b"0,0,20,50,100,200,400,800", ".bval"), "_dwi.bval", "numbers only"),
    "Negative": bad(with_content(b"0 -5 20 50 100 200 400 800", ".bval"), "_dwi.bval", "-5", "0 or more"),
    "BvalNan": bad(with_content(b"0 nan 20 50 100 200 400 800", ".bval"), "_dwi.bval", "nan", "0 or more"),
    "BvalInfinite": bad(with_content(b"0 1e999 20 50 100 200 400 8", ".bval"), "_dwi.bval", "inf"),
    "BvalEmpty": bad(with_content(b"", ".bval"), "_dwi.bval", "is empty", "write one"),
    "BvalBlank": bad(with_content(b" \n\n ", ".bval"), "_dwi.bval", "is empty", "write one"),
    "BvalBinary": bad(with_content(bytes(range(256)), ".bval"), "_dwi.bval", "text"),
    "BvalWide": bad(with_content("0 0 20 50 100 200 400 800".encode("utf-16"), ".bval"), "_dwi.bval", "text"),
    "BvalHuge": bad(with_content(b"0 " * 10_000_000, ".bval"), "_dwi.bval", "MB"),
    "BvalOneWord": bad(with_content(b"1" * 20_000_000, ".bval"), "_dwi.bval", "MB"),
    "FewBvalues": bad(with_image(bvals=FEW), "3 distinct b-values", "4 or more"),
    "NoLowBvalue": bad(with_image(bvals=HIGH), "no b-value up to 200", "300"),
    "TwoBvals": bad(two_tables, "acq-a_dwi.bval", "run-1_dwi.bval", "keep one"),
    # Masks of -d.
    "MaskShape": bad(with_mask(np.ones((12, 10, 3))), "_mask.nii.gz", "grid", "resample"),
    "MaskEmpty": bad(with_mask(np.zeros(SHAPE)), "_mask.nii.gz", "empty"),
    "MaskElsewhere": bad(with_mask(np.ones(SHAPE), shift=7.0), "_mask.nii.gz", "grid", "resample"),
    "MaskText": bad(with_mask(gzip.compress(b"no image" * 99)), "_mask.nii.gz", "NIfTI"),
    "MaskTruncated": bad(with_mask(gzip.compress(bytes(300))[:-20]), "_mask.nii.gz"),
    "MaskGigantic": bad(lying_mask, "_mask.nii.gz", "promises"),
    "SeveralMasks": bad(several_masks, "several masks", "--mask-desc", code=64),
    # Things that are no files.
    "Fifo": bad(without_file(os.mkfifo), "_dwi.nii.gz", "no file", code=66),
    "Socket": bad(without_file(bind), "_dwi.nii.gz", "no file", code=66),
    "Device": bad(without_file(endless), "_dwi.nii.gz", "no file", code=66),
    "BvalFolder": bad(without_file(Path.mkdir, ".bval"), "_dwi.bval", "no file", code=66),
    "BvalFifo": bad(without_file(os.mkfifo, ".bval"), "_dwi.bval", "no file", code=66),
    "BvalSocket": bad(without_file(bind, ".bval"), "_dwi.bval", "no file", code=66),
    "BvalDevice": bad(without_file(endless, ".bval"), "_dwi.bval", "no file", code=66),
    # Content that is not there.
    "NoBval": bad(with_image(bvals=None), "no .bval", "--bvals", code=66),
    "AnnexLink": bad(without_file(dangling), "_dwi.nii.gz", *NOT_FETCHED, code=66),
    "AnnexPointer": bad(without_file(pointer), "_dwi.nii.gz", *NOT_FETCHED, code=66),
    "AnnexBval": bad(without_file(dangling, ".bval"), "_dwi.bval", *NOT_FETCHED, code=66),
    "AnnexBvalPointer": bad(without_file(pointer, ".bval"), "_dwi.bval", *NOT_FETCHED, code=66),
    "AnnexBvec": bad(without_file(dangling, ".bvec"), "_dwi.bvec", *NOT_FETCHED, code=66),
    "AnnexMask": bad(mask_not_fetched, "_mask.nii.gz", *NOT_FETCHED, code=66),
    "LinkLoop": bad(without_file(loop), "_dwi.nii.gz", code=66),
    "BvalLoop": bad(without_file(loop, ".bval"), "_dwi.bval", code=66),
}
"""Bad runs by the label of their participant."""


TOLERATED = {
    "Bomb": (bomb, "_dwi.nii.gz: 1073741824 bytes after the voxels"),
    "BvecFifo": (without_file(os.mkfifo, ".bvec"), "_dwi.bvec"),
    "BvecFolder": (without_file(Path.mkdir, ".bvec"), "_dwi.bvec"),
    "BvecDevice": (without_file(endless, ".bvec"), "_dwi.bvec"),
    "BvecHuge": (with_content(b"0 " * 10_000_000, ".bvec"), "_dwi.bvec"),
    "JsonEmpty": (with_content(b"", ".json"), "_dwi.json"),
    "JsonBroken": (with_content(b'{"a": ', ".json"), "_dwi.json"),
    "JsonList": (with_content(b"[1, 2]", ".json"), "_dwi.json"),
    "JsonDeep": (with_content(b"[" * 200_000, ".json"), "_dwi.json"),
    "JsonObjectDeep": (with_content(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, ".json"), "_dwi.json"),
    "JsonDigits": (with_content(b'{"a": ' + b"9" * 100_000 + b"}", ".json"), "_dwi.json"),
    "JsonWide": (with_content('{"a": 1}'.encode("utf-16"), ".json"), "_dwi.json"),
    "JsonHuge": (with_content(b'{"a": "' + b"x" * 20_000_000 + b'"}', ".json"), "_dwi.json"),
    "JsonFifo": (without_file(os.mkfifo, ".json"), "_dwi.json"),
    "JsonFolder": (without_file(Path.mkdir, ".json"), "_dwi.json"),
    "JsonDevice": (without_file(endless, ".json"), "_dwi.json"),
    "JsonLoop": (without_file(loop, ".json"), "_dwi.json"),
    "JsonNan": (with_content(b'{"EchoTime": NaN, "a": Infinity, "b": 1e999}', ".json"), ""),
    "JsonTwice": (with_content(b'{"EchoTime": 1, "EchoTime": 2}', ".json"), ""),
    "JsonMark": (with_content(b'\xef\xbb\xbf{"EchoTime": 1}', ".json"), ""),
    "JsonTypes": (with_content(b'{"BodyPart": [1], "EchoTime": {"a": null}}', ".json"), ""),
    "JsonSurrogate": (with_content(b'{"Manufacturer": "\\ud800 \\u0000 <b>"}', ".json"), ""),
}
"""Bad files that a run can do without: its warning names them (nothing: not even that)."""


def lines_about(call: Call, label: str) -> list[str]:
    return [
        line
        for line in call.err.splitlines()
        if line.startswith((f"error: sub-{label}: ", f"error: sub-{label}_"))
    ]


def make_runs(root: Path, labels: Sequence[str], *good: str) -> Dataset:
    made = dataset(root / "bids", GOOD)
    if GOOD not in good:
        shutil.rmtree(made.root / GOOD)
    add_mask(root / "masks", GOOD, np.ones(SHAPE))
    for label in labels:
        RUNS[label].make(made, f"sub-{label}")
    return made


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Call, Path]:
    """Every bad run, and those with bad files they can do without, beside a good one in one call."""
    made = make_runs(tmp_path_factory.mktemp("together"), list(RUNS), GOOD)
    for label, (make, _) in TOLERATED.items():
        make(made, f"sub-{label}")
    root = made.root.parent
    return call_apart(made.root, root / "out", "participant", *QUICK, "-d", root / "masks"), root / "out"


@pytest.mark.parametrize("label", RUNS)
def test_a_bad_run_gets_one_line_that_names_the_file_and_the_remedy(together, label):
    call, out = together
    (said,) = lines_about(call, label)
    assert [word for word in RUNS[label].words if word not in said] == [], said
    assert len(said) < 1000
    assert not (out / f"sub-{label}" / "dwi").exists()


@pytest.mark.parametrize("label", TOLERATED)
def test_a_bad_file_that_a_run_can_do_without_is_a_warning(together, label):
    call, out = together
    named = TOLERATED[label][1]
    warnings = [line for line in call.err.splitlines() if f"sub-{label}{named}" in line]
    if named:
        assert len(warnings) == 1
    assert all(len(line) < 1000 for line in warnings)
    assert np.isfinite(values(out, f"sub-{label}/dwi/sub-{label}", "f")).any()


def test_bad_runs_stop_nobody_else(together, app, tmp_path):
    call, out = together
    assert call.code == 1, call.text
    assert "Traceback" not in call.text
    assert f"runs: {1 + len(TOLERATED)} written, 0 skipped, {len(RUNS)} failed" in call.out
    assert not (out / ".work").exists()
    alone = tmp_path / "out"
    made = dataset(tmp_path / "bids", GOOD)
    add_mask(tmp_path / "masks", GOOD, np.ones(SHAPE))
    assert app.quick(made, alone, "-d", tmp_path / "masks").code == 0
    for label in ("f", "d", "dstar", "s0", "rmse"):
        stem = f"{GOOD}/dwi/{GOOD}"
        np.testing.assert_array_equal(values(out, stem, label), values(alone, stem, label))


@pytest.mark.parametrize("code", sorted({case.code for case in RUNS.values()}))
def test_bad_runs_of_one_kind_end_with_its_code(app, tmp_path, monkeypatch, code):
    monkeypatch.setattr(html, "build_report", lambda out, sub, ses, **_: html.report_path(out, sub, ses))
    made = make_runs(tmp_path, [label for label, case in RUNS.items() if case.code == code])
    call = app.quick(made, tmp_path / "out", "-d", tmp_path / "masks")
    assert call.code == code, call.text
    assert [path for path in (tmp_path / "out").rglob("*.nii.gz")] == []
    assert not (tmp_path / "out" / ".work").exists()


# Whole calls -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A good dataset that a row spoils, and the words of the command line around it."""

    made: Dataset
    root: Path

    @property
    def description(self) -> Path:
        return self.made.root / "dataset_description.json"

    def describe(self, content: bytes) -> None:
        self.description.write_bytes(content)

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def __call__(self, *options: str | Path, bids: Path | None = None, out: Path | None = None) -> list:
        place = self.root / "out" if out is None else out
        return [self.made.root if bids is None else bids, place, "participant", *QUICK, *options]


@pytest.fixture
def scene(tmp_path) -> Scene:
    return Scene(dataset(tmp_path / "bids"), tmp_path)


def described(content: bytes | None, *options: str) -> Callable[[Scene], list]:
    def prepare(scene: Scene) -> list:
        scene.description.unlink() if content is None else scene.describe(content)
        return scene(*options)

    return prepare


def description_replaced(place: Callable[[Path], object], *options: str) -> Callable[[Scene], list]:
    def prepare(scene: Scene) -> list:
        scene.description.unlink()
        place(scene.description)
        return scene(*options)

    return prepare


def with_options(*options: str) -> Callable[[Scene], list]:
    return lambda scene: scene(*options)


def with_file(flag: str, content: str | bytes) -> Callable[[Scene], list]:
    return lambda scene: scene(flag, scene.file("given", content))


def with_path(flag: str, place: Callable[[Path], object]) -> Callable[[Scene], list]:
    """A flag whose path ``place`` makes something of; ``{}`` in the flag stands for it."""

    def prepare(scene: Scene) -> list:
        path = scene.root / "given"
        place(path)
        return scene(flag, path)

    return prepare


def with_output(place: Callable[[Path], object], inside: str = "") -> Callable[[Scene], list]:
    def prepare(scene: Scene) -> list:
        path = scene.root / "given"
        place(path)
        return scene(out=path / inside)

    return prepare


def only_folders(*names: str) -> Callable[[Scene], list]:
    def prepare(scene: Scene) -> list:
        shutil.rmtree(scene.made.root / "sub-01")
        for name in names:
            (scene.made.root / name).mkdir(parents=True)
        return scene()

    return prepare


def not_bids(scene: Scene) -> list:
    root = scene.root / "photos"
    root.mkdir()
    (root / "holiday.txt").write_text("no data")
    return scene(bids=root)


def looped(scene: Scene) -> Path:
    path = scene.root / "loop"
    loop(path)
    return path


def nothing(_: Path) -> None:
    pass


LONG = "x" * 300
DEEP = b"[" * 200_000
SKIP = "--skip-bids-validation"

CALLS: dict[str, tuple[Callable[[Scene], list], int, tuple[str, ...]]] = {
    # The dataset.
    "no such dataset": (lambda s: s(bids=s.root / "none"), 66, ("none", "does not exist", "check the path")),
    "dataset is a file": (lambda s: s(bids=s.file("f")), 66, ("f is not a folder", "check the path")),
    "dataset is a loop": (lambda s: s(bids=looped(s)), 66, ("loop", "check the path")),
    "dataset name too long": (lambda s: s(bids=s.root / LONG), 66, ("xxx", "check the path")),
    "not bids": (not_bids, 16, ("dataset_description.json", "missing", SKIP)),
    "no description": (described(None), 16, ("dataset_description.json", "missing", SKIP)),
    "empty description": (described(b""), 16, ("dataset_description.json", "not valid JSON", SKIP)),
    "broken description": (described(b'{"Name": '), 16, ("dataset_description.json", "not valid JSON", SKIP)),
    "list as description": (described(b"[1]"), 16, ("dataset_description.json", "no JSON object", SKIP)),
    "text as description": (described(b'"a"'), 16, ("dataset_description.json", "no JSON object", SKIP)),
    "binary description": (described(bytes(range(256))), 16, ("dataset_description.json", "UTF-8", SKIP)),
    "wide description": (described("{}".encode("utf-16")), 16, ("dataset_description.json", "UTF-8", SKIP)),
    "deep description": (described(DEEP), 16, ("dataset_description.json", "not valid JSON", SKIP)),
    "deep description skipped": (described(DEEP, SKIP), 16, ("dataset_description.json",)),
    "huge description": (described(b" " * (17 << 20)), 16, ("dataset_description.json", "MB", SKIP)),
    "folder as description": (description_replaced(Path.mkdir), 16, ("dataset_description.json", "no file")),
    "pipe as description": (description_replaced(os.mkfifo), 16, ("dataset_description.json", "no file")),
    "pipe as description skipped": (
        description_replaced(os.mkfifo, SKIP), 16, ("dataset_description.json", "no file"),
    ),
    "device as description": (description_replaced(endless), 16, ("dataset_description.json", "no file")),
    "annexed description": (description_replaced(dangling), 16, ("dataset_description.json", "datalad get")),
    # The selection.
    "no such participant": (with_options("--participant-label", "99"), 18, ("99", "no such", "which has 01")),
    "no such session": (with_options("--session-id", "9"), 18, ("no DWI run", "--session-id 9")),
    "no sub- folder": (only_folders(), 18, ("bids", "no sub-")),
    "no dwi folder": (only_folders("sub-01/anat"), 18, ("bids", "no DWI run")),
    "folder as image": (only_folders("sub-01/dwi/sub-01_dwi.nii.gz"), 18, ("bids", "no DWI run")),
    "empty dwi folder": (only_folders("sub-01/dwi"), 18, ("bids", "no DWI run")),
    # The output.
    "output equals input": (lambda s: s(out=s.made.root), 64, ("inside the dataset", "outside of it")),
    "output inside input": (lambda s: s(out=s.made.root / "out"), 64, ("bids/out", "derivatives")),
    "output is derivatives": (lambda s: s(out=s.made.root / "derivatives"), 64, ("below", "derivatives")),
    "work inside input": (
        lambda s: s("-w", s.made.root / "work"), 64, ("--work-dir", "bids/work", "inside", "derivatives"),
    ),
    "database inside input": (
        lambda s: s("--bids-database-dir", s.made.root), 64, ("--bids-database-dir", "bids", "inside"),
    ),
    "output linked inside": (
        with_output(lambda path: path.symlink_to(path.parent / "bids"), "out"), 64, ("given/out", "inside"),
    ),
    "output is a file": (with_output(Path.touch), 73, ("given", "Not a directory", "writable output")),
    "output below a file": (with_output(Path.touch, "out"), 73, ("given", "writable output")),
    "output is a pipe": (with_output(os.mkfifo), 73, ("given", "writable output")),
    "output is a loop": (with_output(loop), 73, ("given", "writable output")),
    "output name too long": (with_output(nothing, LONG), 73, ("xxx", "writable output")),
    "output in proc": (lambda s: s(out=Path("/proc/none/out")), 73, ("/proc/none", "writable output")),
    "work dir is a file": (with_path("--work-dir", Path.touch), 73, ("given", "--work-dir")),
    # Files named by flags.
    "no bvals": (with_path("--bvals", nothing), 66, ("--bvals", "given", "does not exist")),
    "folder as bvals": (with_path("--bvals", Path.mkdir), 66, ("--bvals", "given", "no file")),
    "pipe as filters": (
        with_path("--bids-filter-file", os.mkfifo), 64, ("--bids-filter-file", "given", "no file"),
    ),
    "pipe as configuration": (
        with_path("--config-file", os.mkfifo), 64, ("--config-file", "given", "no file"),
    ),
    "pipe as bvals": (with_path("--bvals", os.mkfifo), 66, ("--bvals", "given", "no file")),
    "loop as bvals": (with_path("--bvals", loop), 66, ("--bvals", "given")),
    "no derivatives": (with_path("-d", nothing), 66, ("derivative", "given", "does not exist")),
    "file as derivatives": (with_path("-d", Path.touch), 66, ("derivative", "given", "folder")),
    "loop as derivatives": (with_path("-d", loop), 66, ("derivative", "given")),
    "file as database": (with_path("--bids-database-dir", Path.touch), 73, ("given",)),
    "no config": (with_path("--config-file", nothing), 66, ("--config-file", "given", "does not exist")),
    "folder as config": (with_path("--config-file", Path.mkdir), 64, ("--config-file", "given")),
    "endless config": (with_path("--config-file", endless), 64, ("--config-file", "given")),
    "broken config": (with_file("--config-file", "method = "), 64, ("--config-file", "given", "TOML")),
    "binary config": (with_file("--config-file", b"\xff\xfe"), 64, ("--config-file", "given")),
    "deep config": (with_file("--config-file", b"a = " + DEEP), 64, ("--config-file", "given")),
    "unknown key": (with_file("--config-file", "colour = 1"), 64, ("--config-file", "given", "--colour")),
    "table in config": (with_file("--config-file", "[method]\na = 1"), 64, ("--config-file", "given")),
    "no filters": (with_path("--bids-filter-file", nothing), 66, ("--bids-filter-file", "given")),
    "folder as filters": (with_path("--bids-filter-file", Path.mkdir), 64, ("--bids-filter-file", "given")),
    "endless filters": (with_path("--bids-filter-file", endless), 64, ("--bids-filter-file", "given")),
    "broken filters": (with_file("--bids-filter-file", "{"), 64, ("--bids-filter-file", "given", "JSON")),
    "deep filters": (with_file("--bids-filter-file", DEEP), 64, ("--bids-filter-file", "given", "JSON")),
    "list as filters": (with_file("--bids-filter-file", "[]"), 64, ("--bids-filter-file", "JSON object")),
    "list as dwi filters": (with_file("--bids-filter-file", '{"dwi": [1]}'), 64, ("filter-file", "dwi")),
    "strange filters": (
        with_file("--bids-filter-file", '{"dwi": {"run": {"a": [1]}, "subject": [[1]], "session": true}}'),
        64, ('"run"', "--bids-filter-file"),
    ),
    # Flags.
    "unknown flag": (with_options("--colour"), 64, ("--colour", "--help")),
    "unknown method": (with_options("--method", "magic"), 64, ("magic", "si-cnn")),
    "unknown level": (lambda s: [s.made.root, s.root / "out", "everyone"], 64, ("everyone", "participant")),
    "per slice without motion": (
        with_options("--per-slice", "--motion-correction", "none"), 64, ("--per-slice", "contradicts"),
    ),
    "dry and reports": (with_options("--dry-run", "--reports-only"), 64, ("--dry-run and --reports-only",)),
    "mask-desc alone": (with_options("--mask-desc", "a"), 64, ("--mask-desc", "--derivatives")),
    "no memory": (with_options("--mem", "0"), 64, ("--mem", "above 0")),
    "negative memory": (with_options("--mem=-1"), 64, ("--mem", "above 0")),
    "memory nan": (with_options("--mem", "nan"), 64, ("--mem", "above 0")),
    "memory in words": (with_options("--mem", "8GB"), 64, ("--mem", "8GB")),
    "label with slash": (with_options("--participant-label", "../01"), 64, ("../01", "letters")),
    "unknown device": (with_options("--device", "tpu"), 64, ("--device", "tpu", "cuda")),
    "max b of nothing": (with_options("--max-bval", "0"), 64, ("--max-bval", "above 0")),
}  # fmt: skip
"""Calls that are refused as a whole: how the scene is spoilt and called, exit code, words of the message."""


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_cannot_be_done_ends_with_its_code_and_one_line(app, scene, what):
    prepare, code, words = CALLS[what]
    argv = prepare(scene)
    call = app.raw(*argv)
    assert call.code == code, call.text
    said = message(call)
    assert [word for word in words if word not in said] == [], said
    assert len(said) < 1000
    assert not list(scene.root.glob("**/*dwimap*"))


def test_a_gpu_that_is_not_there_is_69(scene):
    call = call_process(command(*scene(), "--device", "cuda"), CUDA_VISIBLE_DEVICES="-1")
    assert call.code == 69
    said = message(call)
    assert "--device" in said
    assert not (scene.root / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", "{}".encode("utf-16")])
def test_without_validation_a_bad_description_is_a_warning(app, scene, content):
    described(content)(scene)
    call = app.raw(*scene(SKIP, "--dry-run"))
    assert call.code == 0, call.text
    assert "dataset_description.json" in call.err
    assert "sub-01" in call.out


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"Name": "a", "BIDSVersion": "1.11.1"}',
        b'{"Name": "a", "Name": "b", "BIDSVersion": "1.11.1"}',
        b'{"Name": "a", "BIDSVersion": "1.11.1", "x": NaN}',
        b'{"Name": ["a"], "BIDSVersion": {"a": 1}, "Authors": 3, "GeneratedBy": "x", "License": []}',
    ],
)
def test_odd_but_readable_descriptions_are_accepted(app, scene, content):
    scene.describe(content)
    call = app.raw(*scene("--boilerplate-only"))
    assert call.code == 0, call.text


def test_an_output_around_the_dataset_or_below_its_derivatives_is_accepted(app, scene):
    assert app.raw(*scene("--boilerplate-only", out=scene.root)).code == 0
    work = scene.made.root / "derivatives" / "work"
    assert app.raw(*scene("--boilerplate-only", "-w", work, out=scene.root / "other")).code == 0
    assert app.raw(*scene("--boilerplate-only", out=scene.made.root / "derivatives" / "ivim")).code == 0


def test_a_participant_that_does_not_exist_beside_one_that_does_is_a_warning(app, scene):
    call = app.raw(*scene("--participant-label", "01", "99", "--dry-run"))
    assert call.code == 0
    assert "warning: --participant-label 99 matches no DWI run" in call.err


# Permissions, read-only and full disks -----------------------------------------------------------------


def powerless() -> list[str]:
    """Start of a command whose process may do no more than the owner of its files."""
    if os.getuid() != 0:
        return []
    words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("root may read everything, and setpriv cannot take that from it here")
    return words


def mounted(options: str) -> list[str]:
    """Start of a command that sees a file system of its own at the path that follows, and lists it."""
    words = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
    probe = [*words, "sh", "-c", "mount -t tmpfs none /mnt"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    script = (
        f'at="$1"; shift; mount -t tmpfs -o {options} none "$at" || exit 99; "$@"; code=$?; '
        'find "$at" -type f -printf "left: %P %s\\n"; exit $code'
    )
    return [*words, "sh", "-c", script, "sh"]


CLOSED = {
    "sub-image": ("bids/sub-image/dwi/sub-image_dwi.nii.gz", ("sub-image_dwi.nii.gz",)),
    "sub-bval": ("bids/sub-bval/dwi/sub-bval_dwi.bval", ("sub-bval_dwi.bval",)),
    "sub-dwi": ("bids/sub-dwi/dwi", ("sub-dwi/dwi",)),
    "sub-subject": ("bids/sub-subject", ("bids/sub-subject",)),
    "sub-mask": ("masks/sub-mask/dwi/sub-mask_desc-body_mask.nii.gz", ("masks/sub-mask", "mask.nii.gz")),
    "sub-masks": ("masks/sub-masks/dwi", ("masks/sub-masks/dwi",)),
}
"""What may not be read of a participant, and how its message names it."""


@pytest.fixture
def locked(tmp_path):
    """Takes permissions from paths, and gives them back so that they can be removed."""
    paths: list[Path] = []

    def lock(path: Path, mode: int = 0) -> Path:
        paths.append(path)
        path.chmod(mode)
        return path

    yield lock
    for path in reversed(paths):
        path.chmod(0o700)


def test_what_may_not_be_read_is_said_and_the_others_are_processed(tmp_path, locked):
    made = dataset(tmp_path / "bids", GOOD, *CLOSED)
    for name in (GOOD, *CLOSED):
        add_mask(tmp_path / "masks", name, np.ones(SHAPE))
    for path, _ in CLOSED.values():
        locked(tmp_path / path)
    out = tmp_path / "out"
    options = ["participant", *QUICK, "-d", tmp_path / "masks"]
    call = call_apart(made.root, out, *options, prefix=powerless())
    assert call.code == 1, call.text
    assert (out / GOOD / "dwi").exists()
    for name, (_, words) in CLOSED.items():
        (said,) = lines_about(call, name.removeprefix("sub-"))
        assert [word for word in (*words, "cannot be read", "permissions") if word not in said] == [], said
        assert not (out / name / "dwi").exists()


def test_a_dataset_or_description_that_may_not_be_read(tmp_path, locked):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    description = locked(made.root / "dataset_description.json")
    call = call_process([*powerless(), *command(made.root, out, "participant")])
    assert call.code == 16
    assert "permissions" in message(call)
    description.chmod(0o600)
    locked(made.root)
    call = call_process([*powerless(), *command(made.root, out, "participant")])
    assert call.code == 65
    assert "permissions" in message(call)


@pytest.mark.parametrize("place", [pytest.param("out/new", marks=pytest.mark.slow), "out/sub-01"])
def test_an_output_without_permission_is_73(tmp_path, locked, place):
    made = dataset(tmp_path / "bids")
    path = tmp_path / place
    closed = path.parent if place == "out/new" else path
    closed.mkdir(parents=True)
    locked(closed, 0o500)
    out = path if place == "out/new" else tmp_path / "out"
    call = call_apart(made.root, out, "participant", *QUICK, prefix=powerless())
    assert call.code == 73, call.text
    assert "permission denied" in call.err.lower()
    assert "Traceback" not in call.text
    assert list(tmp_path.glob("out/**/*.nii.gz")) == []


def test_a_read_only_output_is_73(tmp_path):
    made = dataset(tmp_path / "bids")
    out = tmp_path / "out"
    out.mkdir()
    call = call_apart(made.root, out, "participant", *QUICK, prefix=[*mounted("ro"), out])
    assert call.code == 73, call.text
    assert "read-only" in message(call).lower()


@pytest.mark.parametrize(
    "size",
    ["64k", *(pytest.param(size, marks=pytest.mark.slow) for size in ("8k", "32k", "128k", "160k", "200k"))],
)
def test_a_full_output_disk_is_73_and_leaves_no_map_half_written(tmp_path, size):
    made = dataset(tmp_path / "bids", shape=(24, 24, 4))
    out = tmp_path / "out"
    out.mkdir()
    call = call_apart(made.root, out, "participant", *QUICK, prefix=[*mounted(f"size={size}"), out])
    assert call.code == 73, call.text
    assert "no space left" in call.err.lower() or "free space" in call.err.lower()
    assert "Traceback" not in call.text
    left = [line.split()[1] for line in call.out.splitlines() if line.startswith("left: ")]
    assert [name for name in left if "dwimap" in name and not name.startswith(".work/")] == []


@pytest.mark.parametrize("options", ["size=4k", "nr_inodes=1", "ro"])
def test_a_disk_below_the_logs_that_takes_none_costs_no_map(tmp_path, options):
    made, out = dataset(tmp_path / "bids"), tmp_path / "out"
    logs = out / "logs"
    logs.mkdir(parents=True)
    call = call_apart(made.root, out, "participant", *QUICK, "-v", prefix=[*mounted(options), logs])
    assert call.code == 0, call.text
    assert "runs: 1 written" in call.out
    assert len(list(out.glob("sub-*/dwi/*_dwimap.nii.gz"))) == 5


def test_a_home_that_may_not_be_read_will_do(tmp_path, locked):
    made, home = dataset(tmp_path / "bids"), tmp_path / "home"
    home.mkdir()
    locked(home)
    call = call_process(
        [*powerless(), *command(made.root, tmp_path / "out", "participant", "--dry-run")], HOME=str(home)
    )
    assert call.code == 0, call.text
