"""Every kind of input that must be accepted: exit code 0, the right maps, and a word on what was assumed.

All of it through ``main``, with the method without training, on a block of tissue whose parameters are known.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import BVALS, TRUTH, App, Call, add_mask, leave_out_figures, values
from bids_datasets import AFFINE, Dataset
from factories import oblique_affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.bids.gradients import read_bvals, read_bvecs
from sicnn_app.ivim.signal import ivim_signal_maps

STEM = "sub-01/dwi/sub-01"
IMAGE = f"{STEM}_dwi"
SHAPE = (12, 10, 2)
MAPS = ("f", "d", "dstar", "s0", "rmse")

NOISE = 0.1
"""Signal-to-noise ratio 10,000: each single voxel can be compared with the truth."""

CLOSE = 0.05
"""Relative; what whole numbers up to 250 leave of D*, the least certain of the maps."""

Accepts = Callable[..., Call]


@pytest.fixture
def app(capsys, monkeypatch):
    """The app without what takes most of the time and has tests of its own: drawing, waiting for the disk."""
    leave_out_figures(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return App(capsys)


@pytest.fixture
def made(tmp_path) -> Dataset:
    return Dataset(tmp_path / "bids")


@pytest.fixture
def accepts(app, made, tmp_path) -> Accepts:
    """Call the app, check that it succeeds and that its maps are the truth on the grid of the source."""
    return acceptance(app, made, tmp_path / "out")


@pytest.fixture
def draws(capsys, made, tmp_path) -> Accepts:
    """As ``accepts``, with the figures of the report."""
    return acceptance(App(capsys), made, tmp_path / "out")


def acceptance(app: App, made: Dataset, out: Path) -> Accepts:
    def accepts(
        *options: str | Path,
        says: Iterable[str] = (),
        stems: Iterable[str] = (STEM,),
        source: Path | None = None,
        s0: float = TRUTH["s0"],
    ) -> Call:
        call = app.quick(made, out, *options)
        assert call.code == 0, call.text
        for text in says:
            assert text in call.err, call.err
        for stem in stems:
            check_maps(out, stem, source or image_of(made, stem), s0)
        return call

    return accepts


def image_of(made: Dataset, stem: str) -> Path:
    return next(made.root.glob(f"{stem}_dwi.nii*"))


def check_maps(out: Path, stem: str, source: Path, s0: float) -> None:
    """Maps are near the truth in every voxel of the mask, NaN elsewhere, and lie where the source lies."""
    inside = inside_of(out, stem)
    assert inside.any()
    header, affine = nib.load(source).header, nib.load(source).affine
    for label in MAPS:
        image = nib.load(out / f"{stem}_model-ivim_param-{label}_dwimap.nii.gz")
        found = np.asarray(image.dataobj)
        assert found.dtype.newbyteorder("=") == np.float32
        assert found.shape == (*header.get_data_shape()[:3], 1, 1)[:3]
        assert np.array_equal(np.isfinite(found), inside)
        np.testing.assert_array_equal(image.affine, affine)
        for form in ("sform", "qform"):
            assert image.header[f"{form}_code"] == header[f"{form}_code"]
            np.testing.assert_array_equal(
                getattr(image.header, f"get_{form}")(), getattr(header, f"get_{form}")()
            )
        np.testing.assert_array_equal(image.header.get_zooms(), header.get_zooms()[:3])
        if label != "rmse":
            expected = s0 if label == "s0" else TRUTH[label]
            np.testing.assert_allclose(found[inside], expected, rtol=CLOSE, err_msg=f"{stem} {label}")


def values_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def check_mask(out: Path, expected: np.ndarray, stem: str = STEM) -> None:
    """The mask holds nothing else than expected, and all of it but the corners of a block."""
    inside = inside_of(out, stem)
    assert not (inside & ~expected).any()
    assert inside.sum() >= 0.9 * expected.sum()


def sidecar(out: Path, stem: str = STEM) -> dict:
    return json.loads((out / f"{stem}_model-ivim_param-f_dwimap.json").read_text())


def parameters(out: Path, stem: str = STEM) -> dict:
    return sidecar(out, stem)["Model"]["Parameters"]


def step(out: Path, name: str, stem: str = STEM) -> dict:
    return next(item for item in parameters(out, stem)["PreprocessingSteps"] if item["Name"] == name)


def inside_of(out: Path, stem: str = STEM) -> np.ndarray:
    (path,) = out.glob(f"{stem}_desc-*_mask.nii.gz")
    return values_of(path) > 0


def tissue(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A block of tissue, shape (X, Y, Z), bool, with air around it along every axis of 5 or more voxels."""
    block = np.ones(shape, dtype=bool)
    for axis, size in enumerate(shape):
        if size >= 5:
            edge = np.moveaxis(block, axis, 0)
            edge[:2] = edge[-2:] = False
    return block


def scan(
    shape: tuple[int, ...] = SHAPE, *, bvals: Iterable[float] = BVALS, s0: float = TRUTH["s0"]
) -> np.ndarray:
    """:func:`tissue` with the parameters of :data:`TRUTH`, shape (X, Y, Z, N), float32."""
    maps = [np.full(shape, TRUTH[name]) for name in ("f", "d", "dstar")]
    signals = ivim_signal_maps(np.array(list(bvals), dtype=float), *maps, s0 * tissue(shape))
    noise = np.random.default_rng(0).normal(scale=NOISE * s0 / TRUTH["s0"], size=(2, *signals.shape))
    return np.hypot(signals + noise[0], noise[1]).astype(np.float32)


def add_scan(made: Dataset, stem: str = STEM, **image) -> Path:
    """Write a run with its .bval; options as of ``Dataset.image``."""
    bvals = image.get("bvals")
    image = {"data": scan(bvals=BVALS if bvals is None else bvals), "bvals": BVALS, **image}
    return made.image(f"{stem}_dwi", **image)


def add_image(made: Dataset, image: nib.Nifti1Image, *, extension: str = ".nii.gz") -> Path:
    """Write an image that was made by hand as the run of :data:`STEM`."""
    made.write(f"{IMAGE}.bval", " ".join(f"{b:g}" for b in BVALS))
    path = made.root / f"{IMAGE}{extension}"
    nib.save(image, path)
    return path


def rewrite_header(path: Path, fields: dict) -> None:
    """Change fields of a stored header behind the back of nibabel, which corrects some on writing."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))


# where the voxels are


def geometry(
    data: np.ndarray, *, sform: np.ndarray | None, qform: np.ndarray | None, codes: tuple[int, int]
) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, None)
    image.header.set_zooms((2.0, 2.5, 4.0, 3.5))
    image.header.set_sform(sform, code=codes[0])
    image.header.set_qform(qform, code=codes[1])
    return nib.Nifti1Image(data, None, image.header)


def moved(affine: np.ndarray, mm: float) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), (mm, 0, 0)) @ affine


OBLIQUE = oblique_affine()
TURNED = OBLIQUE @ nib.orientations.inv_ornt_aff([[2, -1], [0, 1], [1, 1]], SHAPE)
DISAGREE = "sform and qform"
NOWHERE = "states no orientation"

GEOMETRIES = {
    "oblique": (OBLIQUE, OBLIQUE, (1, 1), None),
    "axes in another order, one reversed": (TURNED, TURNED, (1, 1), None),
    "left-handed": (np.diag([-2.0, 2.5, 4.0, 1.0]), np.diag([-2.0, 2.5, 4.0, 1.0]), (2, 1), None),
    "sform and qform disagree by 3 mm": (OBLIQUE, moved(OBLIQUE, 3), (1, 1), DISAGREE),
    "sform and qform disagree by a rotation": (OBLIQUE, np.diag([2.0, 2.5, 4.0, 1.0]), (2, 1), DISAGREE),
    "sform and qform differ by rounding": (OBLIQUE, moved(OBLIQUE, 0.01), (1, 1), None),
    "sform only": (OBLIQUE, None, (1, 0), None),
    "qform only": (None, OBLIQUE, (0, 1), None),
    "neither sform nor qform": (None, None, (0, 0), NOWHERE),
    "codes of a template": (OBLIQUE, OBLIQUE, (4, 3), None),
}


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_position(accepts, made, kind):
    sform, qform, codes, says = GEOMETRIES[kind]
    add_image(made, geometry(scan(), sform=sform, qform=qform, codes=codes))
    call = accepts(says=[says] if says else [])
    assert says or not any(text in call.err for text in (DISAGREE, NOWHERE))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 12, 10),
        (12, 1, 10),
        (12, 10, 1),
        (1, 1, 12),
        (1, 12, 1),
        (12, 1, 1),
        (1, 1, 1),
        (2, 2, 2),
        (12, 10, 3),
    ],
    ids=lambda shape: " x ".join(map(str, shape)),
)
def test_one_voxel_wide(accepts, made, tmp_path, shape):
    add_scan(made, data=scan(shape))
    accepts()
    check_mask(tmp_path / "out", tissue(shape))


@pytest.mark.parametrize("shape", [(1, 12, 10), (1, 1, 1)], ids=lambda shape: " x ".join(map(str, shape)))
def test_figures_of_one_voxel_wide_images_without_position(draws, made, tmp_path, shape):
    add_image(made, geometry(scan(shape), sform=None, qform=None, codes=(0, 0)))
    draws(says=[NOWHERE])
    assert len(list((tmp_path / "out/sub-01/figures").iterdir())) > 3


# how numbers are stored


STORED = {
    "uint8": (np.uint8, 250.0),
    "int16": (np.int16, 1000.0),
    "uint16": (np.uint16, 50000.0),
    "int32": (np.int32, 1e6),
    "float32": (np.float32, 1000.0),
    "float64": (np.float64, 0.01),
    "big-endian int16": (">i2", 1000.0),
    "big-endian float32": (">f4", 1000.0),
    "big-endian float64": (">f8", 1e9),
}


@pytest.mark.parametrize("kind", STORED)
def test_stored_type(accepts, made, kind):
    dtype, s0 = STORED[kind]
    dtype = np.dtype(dtype)
    data = scan(s0=s0)
    header = nib.Nifti1Header(endianness=">" if dtype.byteorder == ">" else None)
    image = nib.Nifti1Image(
        np.round(data).astype(dtype) if dtype.kind in "iu" else data.astype(dtype), AFFINE, header
    )
    image.set_data_dtype(dtype)
    path = add_image(made, image)
    stored = nib.load(path)
    assert stored.get_data_dtype() == dtype and stored.dataobj.slope == 1
    accepts(s0=s0)


def test_int16_with_slope_and_intercept(accepts, made):
    path = add_image(made, nib.Nifti1Image(np.round((scan() + 500) / 0.05).astype(np.int16), AFFINE))
    rewrite_header(path, {"scl_slope": 0.05, "scl_inter": -500})
    stored = nib.load(path).dataobj
    assert (stored.slope, stored.inter) == (np.float32(0.05), -500)
    accepts()


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_file_format(accepts, made, tmp_path, kind, extension):
    add_image(made, kind(scan(), AFFINE), extension=extension)
    accepts()
    assert type(nib.load(tmp_path / "out" / f"{STEM}_model-ivim_param-f_dwimap.nii.gz")) is kind


HEADERS = {
    "header extension": {},
    "no units": {"xyzt_units": 0},
    "display range and intent": {"cal_max": 7, "intent_code": 1001, "descrip": b"\xff\xfe"},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_header_fields(accepts, made, tmp_path, kind):
    image = nib.Nifti1Image(scan(), AFFINE)
    if not HEADERS[kind]:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientName=Doe^Jane"))
    image.set_qform(None, code=0)
    for field, value in HEADERS[kind].items():
        image.header[field] = value
    path = add_image(made, image)
    rewrite_header(path, HEADERS[kind])
    accepts()
    for output in (tmp_path / "out").rglob("*.nii.gz"):
        assert b"Doe^Jane" not in gzip.decompress(output.read_bytes())


def test_fifth_dimension_of_one_entry(accepts, made):
    add_scan(made, data=scan()[:, :, :, None, :])
    accepts(says=["singleton dimensions"])


def test_bytes_after_the_gzip_stream(accepts, made):
    with add_scan(made).open("ab") as stream:
        stream.write(b"rest of a tape")
    accepts(says=["bytes after the end of the gzip stream are ignored"])


# values


VALUES = {
    "NaN islands": (np.nan, "without a finite value"),
    "infinity": (np.inf, "infinite values are treated as missing"),
    "minus infinity": (-np.inf, "infinite values are treated as missing"),
    "zeros": (0.0, None),
    "padding of -1": (-1.0, None),
}


@pytest.mark.parametrize("kind", VALUES)
def test_voxels_without_data(accepts, made, tmp_path, kind):
    value, says = VALUES[kind]
    data = scan()
    island = np.zeros(SHAPE, dtype=bool)
    island[4:6, 4:6, 0] = True
    data[island] = value
    add_scan(made, data=data)
    accepts(says=[says or "voxels without usable data were taken out of the mask"])
    check_mask(tmp_path / "out", tissue() & ~island)


@pytest.mark.parametrize("value", [-40.0, 0.0], ids=["negative", "zero"])
def test_voxels_at_one_b_value(app, made, tmp_path, value):
    data = scan()
    data[5, 5, 0, -1] = value
    data[0, 0, 0] = -3.0
    add_scan(made, data=data)
    out = tmp_path / "out"
    assert app.quick(made, out).code == 0
    check_mask(out, tissue())
    flags = values_of(out / f"{STEM}_desc-ivimflags_dseg.nii.gz")
    assert flags[5, 5, 0] > 0
    others = inside_of(out)
    others[5, 5, 0] = False
    np.testing.assert_allclose(values(out, STEM, "f")[others], TRUTH["f"], rtol=CLOSE)


def test_one_volume_of_nan(accepts, made, tmp_path):
    data = scan()
    data[..., 3] = np.nan
    add_scan(made, data=data)
    accepts(says=["volume 3 (counted from 0) holds only NaN and is left out"])
    assert parameters(tmp_path / "out")["BValuesUsed"] == [0, 20, 100, 200, 400, 800]


# numbers of volumes and b-values


def test_four_volumes(accepts, made, tmp_path):
    add_scan(made, bvals=(0, 30, 200, 800))
    accepts()
    assert parameters(tmp_path / "out")["BValueRepeats"] == [1, 1, 1, 1]


def test_2000_volumes(accepts, made, tmp_path):
    bvals = np.resize(sorted(set(BVALS)), 2000)
    directions = np.random.default_rng(0).normal(size=(3, 2000))
    made.write(f"{IMAGE}.bvec", "\n".join(" ".join(f"{x:.4f}" for x in row) for row in directions))
    add_scan(made, data=scan((8, 7, 1), bvals=bvals), bvals=tuple(bvals))
    accepts()
    assert sum(parameters(tmp_path / "out")["BValueRepeats"]) == 2000


BVALUES = {
    "no b=0": (
        (10, 20, 50, 100, 200, 400, 800),
        (10, 20, 50, 100, 200, 400, 800),
        "lowest b-value, 10 s/mm^2",
    ),
    "unsorted": ((400, 0, 800, 50, 100, 20, 200, 0), (0, 20, 50, 100, 200, 400, 800), None),
    "49, 50 and 51": ((0, 49, 50, 51, 100, 200, 800), (0, 50, 100, 200, 800), "49-51 as 50"),
    "995, 1000 and 1005": ((0, 20, 50, 200, 995, 1000, 1005), (0, 20, 50, 200, 1000), "995-1005 as 1000"),
    "0 and 5": ((0, 5, 20, 50, 200, 800), (0, 5, 20, 50, 200, 800), None),
    "fractions": ((0, 7.5, 20.25, 50.5, 199.75, 800.125), (0, 7.5, 20.25, 50.5, 199.75, 800.125), None),
}


@pytest.mark.parametrize("kind", BVALUES)
def test_b_values(accepts, made, tmp_path, kind):
    bvals, used, says = BVALUES[kind]
    add_scan(made, bvals=bvals)
    call = accepts(says=[says] if says else [])
    found = parameters(tmp_path / "out")
    assert found["BValuesUsed"] == list(used)
    assert sum(found["BValueRepeats"]) == len(bvals)
    description = step(tmp_path / "out", "Normalisation")
    assert description["NormalisationBValue"] == used[0]
    assert ("lowest b-value" in call.err) == (used[0] > 0)


ROW = "0 0 20 50 100 200 400 800"
TABLES = {
    "row": ROW,
    "column": ROW.replace(" ", "\n") + "\n",
    "tabs": ROW.replace(" ", "\t"),
    "floats": "0.0 0.000 20. 50.00 100.0 2e2 +4.0E+02 800.",
    "spaces around": f"  {ROW.replace(' ', '   ')}  \n\n",
    "Windows line ends": ROW.replace(" ", "\r\n") + "\r\n",
    "byte order mark": f"\ufeff{ROW}\r\n",
    "two lines": ROW.replace(" 100", "\n100"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_bval_text(accepts, made, tmp_path, kind):
    add_scan(made)
    made.write(f"{IMAGE}.bval", TABLES[kind])
    call = accepts()
    assert parameters(tmp_path / "out")["BValuesUsed"] == sorted(set(BVALS))
    assert "bval" not in call.err


DIRECTIONS = np.array(
    [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8], [0, 1, 0]]
)


def vectors(table: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:g}" for value in row) for row in table) + "\n"


def changed(values: float, volume: int) -> np.ndarray:
    table = DIRECTIONS.T.copy()
    table[:, volume] = values
    return table


BVECS = {
    "missing": (None, "no .bvec: only |b| is used", False),
    "3 rows": (vectors(DIRECTIONS.T), None, True),
    "transposed": (vectors(DIRECTIONS), "3 columns, not 3 rows", True),
    "all zero": (vectors(np.zeros((3, 8))), "4 volumes above b = 50 have no direction", True),
    "one zero": (vectors(changed(0, 7)), "1 volumes above b = 50 have no direction", True),
    "NaN": (vectors(changed(np.nan, 5)), "1 volumes above b = 50 have no direction", True),
    "NaN at b=0": (vectors(changed(np.nan, 0)), None, True),
    "a volume too few": (vectors(DIRECTIONS.T[:, :-1]), "3 x 7 values for 8 volumes", False),
    "rows of different lengths": ("1 0 0\n0 1\n", "no table of numbers", False),
    "words": ("x y z\n", "no table of numbers", False),
    "empty": ("", "is left out", False),
}


@pytest.mark.parametrize("kind", BVECS)
def test_bvec(accepts, made, tmp_path, kind):
    content, says, written = BVECS[kind]
    add_scan(made)
    if content is not None:
        made.write(f"{IMAGE}.bvec", content)
    call = accepts(says=[says] if says else [])
    assert says or "bvec" not in call.err
    assert (tmp_path / "out" / f"{STEM}_desc-preproc_dwi.bvec").exists() == written


numbers = st.lists(st.floats(0, 5000, allow_nan=False), min_size=1, max_size=12)
spaces = st.text(" \t", min_size=1, max_size=3)
breaks = st.sampled_from(["\n", "\r\n", " \n", "\n\n", "\r"])
spellings = st.sampled_from(
    [repr, "{:.17g}".format, "{:+.17e}".format, "{:.17E}".format, "{:025.17e}".format]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(numbers, st.data())
def test_any_spelling_of_a_bval_is_one_table(tmp_path, bvals, data):
    words = [data.draw(spellings)(value) for value in bvals]
    gaps = [data.draw(st.one_of(spaces, breaks)) for _ in words[1:]]
    around = st.one_of(st.just(""), spaces, breaks)
    text = words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True))
    mark = data.draw(st.sampled_from(["", "\ufeff"]))
    path = tmp_path / "dwi.bval"
    path.write_bytes((mark + data.draw(around) + text + data.draw(around)).encode())
    np.testing.assert_array_equal(read_bvals(path), bvals)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=4, max_size=9), st.booleans(), st.data())
def test_any_spelling_of_a_bvec_is_one_table(tmp_path, directions, transposed, data):
    table = np.array(directions)
    rows = [
        data.draw(st.sampled_from(["", " ", "\t"]))
        + data.draw(spaces).join(data.draw(spellings)(float(x)) for x in row)
        for row in (table if transposed else table.T)
    ]
    path = tmp_path / "dwi.bvec"
    path.write_bytes(
        (data.draw(breaks).join(rows) + data.draw(st.sampled_from(["", "\n", " \r\n\n"]))).encode()
    )
    found, warnings = read_bvecs(path, np.full(len(directions), 10.0))
    np.testing.assert_array_equal(found, table)
    assert bool(warnings) == transposed


# files that several images share


LEVELS = {
    "root": "dwi",
    "root, by acquisition": "acq-x_dwi",
    "subject": "sub-01/sub-01_dwi",
    "session": "sub-01/ses-a/sub-01_ses-a_acq-x_dwi",
    "dwi folder": "sub-01/ses-a/dwi/sub-01_ses-a_dwi",
    "own": "sub-01/ses-a/dwi/sub-01_ses-a_acq-x_run-01_dwi",
}
DEEP = "sub-01/ses-a/dwi/sub-01_ses-a_acq-x_run-01"


@pytest.mark.parametrize("level", LEVELS)
def test_inherited(accepts, made, tmp_path, level):
    add_scan(made, DEEP, bvals=None)
    wrong, right = ("0 0 10 30 60 90 300 500", ROW)
    for name in list(LEVELS.values())[: list(LEVELS).index(level) + 1]:
        for other in ("acq-y_dwi", "sub-02_dwi"):
            made.write(f"{name.rpartition('/')[0]}/{other}.bval".lstrip("/"), "1 2 3")
        if name.rpartition("/")[0] != LEVELS[level].rpartition("/")[0]:
            made.write(f"{name}.bval", wrong)
            made.write(f"{name}.json", '{"BodyPart": "LEG"}')
    made.write(f"{LEVELS[level]}.bval", right)
    made.write(f"{LEVELS[level]}.bvec", vectors(DIRECTIONS.T))
    made.write(f"{LEVELS[level]}.json", '{"BodyPart": "ABDOMEN"}')
    call = accepts(stems=[DEEP])
    assert "bvec" not in call.err
    found = sidecar(tmp_path / "out", DEEP)
    assert f"bids:raw:{LEVELS[level]}.bval" in found["Sources"]
    assert f"bids:raw:{LEVELS[level]}.bvec" in found["Sources"]
    assert "ABDOMEN" in found["Model"]["Parameters"]["AnatomySource"]


@pytest.mark.parametrize("content", ["{broken", b"\xff\xfe"], ids=["syntax", "bytes"])
def test_broken_json_sidecar(accepts, made, content):
    add_scan(made)
    made.write("dwi.json", '{"BodyPart": "ABDOMEN"}')
    made.write(f"{IMAGE}.json", content)
    accepts(says=["sub-01_dwi.json", "left out, anatomy and motion correction are chosen without it"])


def test_one_wrong_byte_in_a_sidecar_takes_nothing_else_of_it(accepts, made, tmp_path):
    add_scan(made)
    content = '{"InstitutionName": "Universität", "BodyPart": "ABDOMEN"}'.encode("latin-1")
    made.write(f"{IMAGE}.json", content)
    accepts(says=["sub-01_dwi.json is no UTF-8 text (byte 30)", "the rest is used"])
    assert "ABDOMEN" in parameters(tmp_path / "out")["AnatomySource"]


# several images


NAMES = {
    "run-1 beside run-01": ("run-1", "run-01"),
    "acquisitions, directions and runs": ("acq-a", "acq-b", "dir-AP", "dir-PA", "run-1", "run-2"),
    "plus signs": ("acq-a+b",),
    "many entities": ("acq-a_ce-gd_rec-x_dir-AP_run-3_echo-1_part-mag_chunk-2",),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names(accepts, made, tmp_path, kind):
    stems = [f"{STEM}_{name}" for name in NAMES[kind]]
    tables = [(*BVALS[:-1], 700 + 10 * number) for number in range(len(stems))]
    for stem, bvals in zip(stems, tables, strict=True):
        add_scan(made, stem, bvals=bvals)
    accepts(stems=stems)
    for stem, bvals in zip(stems, tables, strict=True):
        assert parameters(tmp_path / "out", stem)["BValuesUsed"] == sorted(set(bvals))
        assert f"bids:raw:{stem}_dwi.bval" in sidecar(tmp_path / "out", stem)["Sources"]


def test_sessions(accepts, made, tmp_path):
    stems = [f"sub-01/ses-{label}/dwi/sub-01_ses-{label}" for label in ("pre", "2")]
    for stem in stems:
        add_scan(made, stem)
    accepts(stems=stems)
    assert len(list((tmp_path / "out").glob("sub-01_ses-*.html"))) == 2


def test_other_parts_are_ignored(accepts, made):
    add_scan(made, f"{STEM}_part-mag")
    for part in ("phase", "real", "imag"):
        add_scan(made, f"{STEM}_part-{part}", data=-scan())
    call = accepts(stems=[f"{STEM}_part-mag"])
    for part in ("phase", "real", "imag"):
        assert f"part-{part} is no magnitude image" in call.out
    assert "1 written" in call.out


def test_sbref_and_other_datatypes_are_ignored(accepts, made):
    add_scan(made)
    made.image("sub-01/dwi/sub-01_sbref", data=scan()[..., 0], bvals=None)
    made.image("sub-01/anat/sub-01_T1w", bvals=None)
    made.image("sub-01/func/sub-01_task-rest_bold", bvals=None)
    assert "1 written, 0 skipped" in accepts().out


def test_other_runs_beside_an_ivim_run(accepts, made):
    add_scan(made, f"{STEM}_acq-ivim")
    others = {"single": (0,), "b0": (0, 0, 0), "dti": (0, 500, 1000, 1000)}
    for label, bvals in others.items():
        add_scan(made, f"{STEM}_acq-{label}", bvals=bvals)
    call = accepts(stems=[f"{STEM}_acq-ivim"])
    for label in others:
        assert f"sub-01_acq-{label}: skipped" in call.out


def test_single_volumes_combined(accepts, made, tmp_path):
    for number, b in enumerate(BVALS):
        add_scan(made, f"{STEM}_acq-x_run-{number}", data=scan()[..., number], bvals=(b,))
    accepts("--combine", "run", stems=[f"{STEM}_acq-x"], source=made.root / f"{STEM}_acq-x_run-0_dwi.nii.gz")
    assert parameters(tmp_path / "out", f"{STEM}_acq-x")["BValueRepeats"] == [2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("label", ["01", "sub-01"])
def test_participant_labels(accepts, made, tmp_path, label):
    add_scan(made)
    add_scan(made, "sub-02/dwi/sub-02")
    accepts("--participant-label", label, "09", says=["--participant-label 09 matches no DWI run"])
    assert not (tmp_path / "out" / "sub-02").exists()


# the tree


@pytest.mark.parametrize("folder", ["Bäuche & Ödeme", "数据 集", "a 'b' \"c\" #1 50%20", "x=y;$(z)"])
def test_paths(app, tmp_path, folder):
    made, out = Dataset(tmp_path / folder / "bids"), tmp_path / folder / "out put"
    add_scan(made)
    acceptance(app, made, out)()
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links["raw"] == made.root.resolve().as_uri()


def test_linked_dataset_folder(app, made, tmp_path):
    add_scan(made)
    link = tmp_path / "link"
    link.symlink_to(made.root)
    made.root = link
    acceptance(app, made, tmp_path / "out")()
    assert f"bids:raw:{IMAGE}.nii.gz" in sidecar(tmp_path / "out")["Sources"]


def test_linked_participants_and_files(accepts, made, tmp_path):
    store = Dataset(tmp_path / "store")
    add_scan(store)
    add_scan(store, "sub-02/dwi/sub-02")
    (made.root / "sub-01").symlink_to(store.root / "sub-01")
    for path in (store.root / "sub-02/dwi").iterdir():
        made.write(f"sub-02/dwi/{path.name}")
        (made.root / "sub-02/dwi" / path.name).unlink()
        (made.root / "sub-02/dwi" / path.name).symlink_to(path)
    (made.root / "sub-01/dwi/again").symlink_to(made.root)
    accepts(stems=[STEM, "sub-02/dwi/sub-02"])


def annex(root: Path) -> None:
    """Move every file below ``root`` into ``.git/annex/objects``, read-only, and leave a relative link."""
    for number, path in enumerate(sorted(path for path in root.rglob("*_dwi.*") if path.is_file())):
        key = f"MD5E-s{path.stat().st_size}--{number:032x}"
        content = root / ".git" / "annex" / "objects" / "Xx" / f"{number:02d}" / key / key
        content.parent.mkdir(parents=True)
        path.rename(content)
        content.chmod(0o444)
        content.parent.chmod(0o555)
        path.symlink_to(os.path.relpath(content, path.parent))


@pytest.fixture
def writable_again(made):
    yield
    for folder in made.root.glob(".git/annex/objects/*/*/*"):
        folder.chmod(0o755)


@pytest.mark.usefixtures("writable_again")
def test_annexed_tree(accepts, made, tmp_path):
    add_scan(made)
    made.write(f"{IMAGE}.bvec", vectors(DIRECTIONS.T))
    made.write(f"{IMAGE}.json", '{"BodyPart": "ABDOMEN"}')
    made.write(".datalad/config", "[datalad]\n")
    annex(made.root)
    assert (made.root / f"{IMAGE}.nii.gz").is_symlink()
    before = sorted(path for path in made.root.rglob("*"))
    accepts()
    assert f"bids:raw:{IMAGE}.nii.gz" in sidecar(tmp_path / "out")["Sources"]
    assert sorted(path for path in made.root.rglob("*")) == before


def test_other_files_and_folders(accepts, made, tmp_path):
    add_scan(made)
    for folder in ("derivatives/other", "sourcedata", "code", ".git", ".heudiconv", "sub-01/ses-x/dwi/old"):
        made.image(f"{folder}/sub-01/dwi/sub-01_acq-no_dwi")
    made.write("participants.tsv", "participant_id\tage\nsub-01\tn/a\nsub-77\t3\n")
    made.write("sub-01/sub-01_scans.tsv", "filename\nnowhere.nii.gz\n")
    made.write(".bidsignore", "extra/\n")
    for name in (
        "README",
        "CHANGES",
        "phantom.dcm",
        "sub-01/dwi/notes.txt",
        "sub-01/dwi/._sub-01_dwi.nii.gz",
    ):
        made.write(name, "anything")
    os.mkfifo(made.root / "sub-01/dwi/pipe")
    (made.root / "sub-01/dwi/folder_dwi.nii.gz").mkdir()
    call = accepts()
    assert "1 written, 0 skipped, 0 failed" in call.out
    assert [path.name for path in (tmp_path / "out").glob("sub-*")] in (
        ["sub-01", "sub-01.html"], ["sub-01.html", "sub-01"]
    )  # fmt: skip


# names that are not BIDS


FOREIGN = ["<b>x<b>", "..", "%2e%2e", "a\nb", "\x1b[31m", "a b", "a-b", "é", "a.b"]


def test_labels_that_bids_does_not_allow(accepts, made, tmp_path):
    add_scan(made)
    for label in FOREIGN:
        add_scan(made, f"sub-01/dwi/sub-01_acq-{label}")
        add_scan(made, f"sub-01/ses-{label}/dwi/sub-01_ses-{label}")
        add_scan(made, f"sub-{label}/dwi/sub-{label}")
    call = accepts(says=[f"ignored: names of {len(FOREIGN)} participant folders are not BIDS"])
    warnings = call.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    for label in FOREIGN:
        shown = label.replace("\n", "\\n").replace("\x1b", "\\x1b")
        for name in (f"sub-01_acq-{shown}_dwi.nii.gz", f"sub-01_ses-{shown}_dwi.nii.gz"):
            assert (
                len([line for line in warnings if f"/{name} is ignored: its name is not BIDS" in line]) == 1
            )
    assert "\x1b" not in call.text
    assert "1 written, 0 skipped, 0 failed" in call.out
    outputs = [path for path in (tmp_path / "out").rglob("*") if "sub-" in path.name]
    assert outputs and all(
        re.match(r"((run|report)-)?sub-01(_model|_desc|\.html|\.json|$)", path.name) for path in outputs
    )


def test_names_that_are_not_utf_8(accepts, made):
    add_scan(made)
    folder = os.fsencode(made.root / "sub-01" / "dwi")
    for name in (b"sub-01_acq-\xe9_dwi.nii.gz", b"notes \xe9.txt"):
        Path(os.fsdecode(folder + b"/" + name)).touch()
    Path(os.fsdecode(os.fsencode(made.root) + b"/sub-\xfc")).mkdir()
    call = accepts(says=["acq-\\udce9_dwi.nii.gz is ignored: its name is not UTF-8", "sub-\\udcfc"])
    assert "1 written" in call.out


# options


def test_bvals_file(accepts, made, tmp_path):
    add_scan(made, bvals=None)
    table = tmp_path / "b values.txt"
    table.write_text(ROW.replace(" ", "\n"))
    accepts("--bvals", table)
    assert parameters(tmp_path / "out")["BValuesUsed"] == sorted(set(BVALS))


@pytest.mark.parametrize("tables", ["--bvals", "own", "inherited"])
def test_one_image_per_b_value(accepts, made, tmp_path, tables):
    volumes = scan()
    for number, b in enumerate(BVALS):
        name = f"sub-01/dwi/sub-01_run-{number + 1}_dwi"
        made.image(name, data=volumes[..., number], bvals=(b,) if tables == "own" else None)
    table = made.write("sub-01/sub-01_dwi.bval" if tables == "inherited" else "../b values.txt", ROW)
    given = ["--bvals", table] if tables == "--bvals" else []
    says = (
        [] if tables == "own" else [f"run-2_dwi.nii.gz: {BVALS[1]:g}; sub-01_run-3_dwi.nii.gz: {BVALS[2]:g}"]
    )
    accepts(
        *given, "--combine", "run", says=says, source=made.root / "sub-01/dwi/sub-01_run-1_dwi.nii.gz"
    )  # fmt: skip
    assert parameters(tmp_path / "out")["BValuesUsed"] == sorted(set(BVALS))


def test_max_bval_and_ignored_bvals(accepts, made, tmp_path):
    add_scan(made, bvals=(*BVALS, 1500.0))
    accepts(
        "--max-bval", "500", "--ignore-bvals", "51",
        says=["above --max-bval 500: b = 800, 1500 s/mm^2", "named by --ignore-bvals: b = 50 s/mm^2"],
    )  # fmt: skip
    assert parameters(tmp_path / "out")["BValuesUsed"] == [0, 20, 100, 200, 400]
    assert step(tmp_path / "out", "Volume selection")["VolumesLeftOut"] == [3, 7, 8]


# other datasets


ROI = np.zeros(SHAPE)
ROI[3:8, 4:7] = 1


@pytest.mark.parametrize("spelling", ["{}", "rois={}"], ids=["PATH", "NAME=PATH"])
def test_mask_of_a_derivative(accepts, made, tmp_path, spelling):
    add_scan(made)
    root = add_mask(tmp_path / "masks", "sub-01", ROI)
    accepts("-d", spelling.format(root))
    assert np.array_equal(inside_of(tmp_path / "out"), ROI > 0)
    name = "rois" if "=" in spelling else "masks"
    assert f"bids:{name}:{STEM}_desc-body_mask.nii.gz" in sidecar(tmp_path / "out")["Sources"]


def stored_as(axes: list[list[int]]) -> np.ndarray:
    """Affine of an image of :data:`SHAPE` whose axes were reordered and reversed."""
    return AFFINE @ nib.orientations.inv_ornt_aff(axes, SHAPE)


TURNED_MASK = "axes were turned to those of the image"
MASKS = {
    "float with NaN": (np.where(ROI > 0, 0.7, np.nan), AFFINE, None),
    "int16": (ROI.astype(np.int16), AFFINE, None),
    "flipped axes": (ROI[::-1, :, ::-1], stored_as([[0, -1], [1, 1], [2, -1]]), TURNED_MASK),
    "swapped axes": (ROI.transpose(2, 0, 1), stored_as([[1, 1], [2, 1], [0, 1]]), TURNED_MASK),
    "fourth dimension": (ROI[..., None], AFFINE, None),
    "no orientation": (ROI, None, "states no orientation: it is taken to lie as the image does"),
    "rounded affine": (ROI, AFFINE + 0.01 * np.eye(4, k=3), None),
}


@pytest.mark.parametrize("kind", MASKS)
def test_mask_file(accepts, made, tmp_path, kind):
    data, affine, says = MASKS[kind]
    add_scan(made)
    masks = Dataset(tmp_path / "masks", kind="derivative")
    nib.save(nib.Nifti1Image(data, affine), masks.write(f"{STEM}_desc-liver_mask.nii.gz"))
    accepts("-d", masks.root, says=[says] if says else [])
    assert np.array_equal(inside_of(tmp_path / "out"), ROI > 0)


def test_mask_of_a_label(accepts, made, tmp_path):
    add_scan(made)
    masks = Dataset(tmp_path / "masks", kind="derivative")
    for label, data in (("liver", ROI), ("spleen", np.roll(ROI, 1, axis=0))):
        masks.image(f"{STEM}_desc-{label}_mask", data=data.astype(np.uint8), bvals=None)
    accepts("-d", masks.root, "--mask-desc", "liver")
    assert np.array_equal(inside_of(tmp_path / "out"), ROI > 0)


def test_a_region_that_the_mask_cuts_is_told(accepts, made, tmp_path):
    add_scan(made)
    labels = ROI.astype(np.uint8)
    labels[4:8, 4:7] = 2
    mask = labels.copy()
    mask[6:] = 0
    rois = Dataset(tmp_path / "rois", kind="derivative")
    rois.image(f"{STEM}_desc-organs_dseg", data=labels, bvals=None)
    rois.image(f"{STEM}_desc-body_mask", data=mask.astype(np.uint8), bvals=None)
    accepts("-d", f"rois={rois.root}", says=["the mask leaves out 50% of 2 (rois:organs)"])
    made_mask = accepts("-d", f"rois={rois.root}", "--mask-desc", "none", "--overwrite")
    assert "leaves out" not in made_mask.err
    assert inside_of(tmp_path / "out")[ROI > 0].all()


def test_a_mask_of_another_label_is_called_by_it_in_all_outputs(accepts, app, made, tmp_path):
    add_scan(made)
    masks = Dataset(tmp_path / "masks", kind="derivative")
    masks.image(f"{STEM}_desc-cord_mask", data=ROI.astype(np.uint8), bvals=None)
    out = tmp_path / "out"
    assert f"{STEM}_desc-cord_mask.nii.gz" in app.quick(made, out, "-d", masks.root, "--dry-run", "-v").out
    accepts("-d", masks.root)
    written = json.loads((out / f"{STEM}_desc-ivim_qc.json").read_text())["Outputs"]
    assert [name for name in written if "_mask." in name] == [
        "sub-01_desc-cord_mask.nii.gz", "sub-01_desc-cord_mask.json"
    ]  # fmt: skip
    assert "cord mask" in json.loads((out / f"{STEM}_desc-cord_mask.json").read_text())["Description"]
    assert "\ndesc-cord\tMask" in (out / "descriptions.tsv").read_text()
    report = (out / "sub-01.html").read_text()
    assert "restricted to a cord mask" in report and "Treated as body" in report


def test_derivative_without_a_mask_of_the_run(accepts, made, tmp_path):
    add_scan(made)
    masks = Dataset(tmp_path / "masks", kind="derivative")
    masks.image("sub-02/dwi/sub-02_desc-liver_mask", data=ROI.astype(np.uint8), bvals=None)
    accepts("-d", masks.root, says=["no mask of it in masks; one is made"])


def derivative(root: Path, stem: str, *, image: str, mask: str) -> Dataset:
    """A dataset with a preprocessed series of :func:`scan` and its mask, named as programs name them."""
    made = Dataset(root, kind="derivative")
    add_image_to = f"{stem}_{image}"
    made.image(add_image_to, data=scan(), bvals=BVALS)
    made.write(f"{add_image_to}.bvec", vectors(DIRECTIONS.T))
    made.write(f"{add_image_to}.b", vectors(np.c_[DIRECTIONS, BVALS]))
    made.write(f"{add_image_to}.json", '{"SkullStripped": false}')
    made.image(f"{stem}_{mask}", data=ROI.astype(np.uint8), bvals=None)
    folder = stem.rpartition("/")[0]
    made.image(f"{folder}/../anat/{stem.rpartition('/')[2]}_desc-brain_mask", bvals=None, data=ROI[:3])
    made.write(f"{stem}_space-T1w_dwiref.nii.gz", "no image")
    made.write(f"{stem}_desc-confounds_timeseries.tsv", "a\n1\n")
    return made


PREPROCESSED = {
    "QSIPrep": ("space-T1w_desc-preproc_dwi", "space-T1w_desc-brain_mask", "_space-T1w"),
    "QSIPrep, ACPC": ("space-ACPC_desc-preproc_dwi", "space-ACPC_desc-brain_mask", "_space-ACPC"),
    "MRtrix": ("desc-preproc_dwi", "desc-brain_mask", ""),
    "native space": ("space-orig_desc-preproc_dwi", "desc-body_mask", "_space-orig"),
}


@pytest.mark.parametrize(("kind", "session"), [*((kind, False) for kind in PREPROCESSED), ("QSIPrep", True)])
def test_preprocessed_image_of_a_derivative(accepts, made, tmp_path, kind, session):
    image, mask, space = PREPROCESSED[kind]
    stem = "sub-01/ses-1/dwi/sub-01_ses-1" if session else STEM
    raw = add_scan(made, f"{stem}_run-1", data=np.zeros_like(scan()))
    made.write(f"{stem}_run-1_dwi.json", '{"BodyPart": "ABDOMEN"}')
    other = derivative(tmp_path / "prep", stem, image=image, mask=mask)
    # Whatever is wrong with the raw image does not matter, as it is not read.
    raw.unlink()
    raw.symlink_to(tmp_path / "gone")
    for name in ("run-1_dwi", "dwi"):
        made.write(f"{stem}_{name}.bval", "no number")
    accepts(
        "-d", f"prep={other.root}",
        stems=[f"{stem}{space}"], source=other.root / f"{stem}_{image}.nii.gz",
    )  # fmt: skip
    out = tmp_path / "out"
    assert np.array_equal(inside_of(out, f"{stem}{space}"), ROI > 0)
    found = sidecar(out, f"{stem}{space}")
    assert found["Sources"] == [
        f"bids:prep:{stem}_{name}" for name in (
            f"{image}.nii.gz", f"{image}.bval", f"{image}.bvec", f"{mask}.nii.gz"
        )
    ]  # fmt: skip
    assert "ABDOMEN" in found["Model"]["Parameters"]["AnatomySource"]


def test_preprocessed_image_without_its_raw_run(accepts, made, tmp_path):
    add_scan(made, f"{STEM}_acq-a")
    other = derivative(tmp_path / "prep", f"{STEM}_acq-b", image="desc-preproc_dwi", mask="desc-brain_mask")
    accepts(
        "-d", other.root,
        stems=[f"{STEM}_acq-a"], says=["sub-01_acq-b_desc-preproc_dwi.nii.gz is not used"],
    )  # fmt: skip
    assert not list((tmp_path / "out").rglob("*acq-b*"))


@pytest.mark.parametrize("with_masks", [False, True], ids=["alone", "with -d"])
def test_derivative_as_the_dataset(app, tmp_path, with_masks):
    other = derivative(
        tmp_path / "prep", STEM, image="space-T1w_desc-preproc_dwi", mask="space-T1w_desc-brain_mask"
    )
    other.image(f"{STEM}_space-T1w_desc-denoised_dwi")
    call = acceptance(app, other, tmp_path / "out")(
        *(["-d", other.root] if with_masks else []),
        stems=[f"{STEM}_space-T1w"],
        source=other.root / f"{STEM}_space-T1w_desc-preproc_dwi.nii.gz",
        says=["is a derivative dataset, of which only desc-preproc images are processed"],
    )
    assert "desc-denoised is neither raw nor desc-preproc" in call.out
    check_mask(tmp_path / "out", ROI > 0 if with_masks else tissue(), f"{STEM}_space-T1w")
