from __future__ import annotations

import gzip
import re
import struct
import warnings as python_warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_datasets import AFFINE, BVALS, Dataset, real_dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sicnn_app.bids.gradients import part_bvals, read_bvals, read_bvecs
from sicnn_app.bids.images import open_image
from sicnn_app.bids.load import load_run
from sicnn_app.bids.masks import load_mask
from sicnn_app.errors import DataError, MissingInputError
from sicnn_app.ivim.bvalues import bvalue_tolerance, group_bvalues
from sicnn_app.ivim.run import DwiRun, SourceImage

STEM = "sub-01/dwi/sub-01_dwi"
DATA = np.random.default_rng(0).uniform(1, 100, (3, 4, 2, 5)).astype(np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "ds")


def run_of(*images: Path) -> DwiRun:
    def beside(image: Path, extension: str) -> Path | None:
        path = image.with_name(image.name.split(".")[0] + extension)
        return path if path.exists() else None

    parts = tuple(SourceImage(image, beside(image, ".bval"), beside(image, ".bvec")) for image in images)
    return DwiRun({"sub": "01"}, parts)


def load(*images: Path, bvals_file: Path | None = None):
    return load_run(run_of(*images), bvals_file=bvals_file)


def refused(*images: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        load(*images)
    assert str(error.value).count("\n") <= 1


# b-values

finite = st.lists(st.floats(0, 5000, allow_nan=False), min_size=1, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(finite, st.sampled_from([" ", "  ", "\t", "\n", " \n", "\r\n"]), st.sampled_from(["", "\n", " \n\n"]))
def test_bvals_survive_rows_columns_and_any_white_space(tmp_path, values, separator, end):
    path = tmp_path / "dwi.bval"
    path.write_bytes((separator.join(repr(value) for value in values) + end).encode())
    np.testing.assert_array_equal(read_bvals(path), values)


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"0 10 ten", b"0, 10, 20", b"0 -5 10", b"0 nan 10", b"0 inf", b"\xff\x00\x01\x80"],
)
def test_other_bvals_are_refused(tmp_path, content):
    path = tmp_path / "dwi.bval"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dwi.bval"):
        read_bvals(path)


@settings(deadline=None)
@given(finite, st.randoms(use_true_random=False))
def test_every_volume_has_one_nominal_bvalue_whatever_the_order(values, random):
    bvals = np.array(values)
    nominal, index = group_bvalues(bvals)
    assert index.shape == bvals.shape
    assert set(index) == set(range(nominal.size))
    assert (np.diff(nominal) > 0).all()
    order = list(range(bvals.size))
    random.shuffle(order)
    shuffled, shuffled_index = group_bvalues(bvals[order])
    np.testing.assert_array_equal(shuffled, nominal)
    np.testing.assert_array_equal(shuffled_index, index[order])
    again, again_index = group_bvalues(nominal[index])
    np.testing.assert_array_equal(again, nominal)
    np.testing.assert_array_equal(again_index, index)


@given(st.lists(st.floats() | st.sampled_from([-0.0, 0.0, 5e-324, 1e300, 1.7e308]), min_size=1, max_size=12))
@example([0.0, 10.0, float("nan")])
@example([float("nan")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_grouping_ends_whatever_the_numbers_are(values):
    """Readers let only finite numbers of 0 or more come so far."""
    nominal, index = group_bvalues(values)
    assert index.shape == (len(values),)
    assert set(index) == set(range(nominal.size))


@settings(deadline=None)
@given(st.lists(st.floats(-0.49, 0.49), min_size=33, max_size=33))
def test_jitter_of_a_published_protocol_is_undone(jitter):
    protocol = np.array([0, 10, 20, 40, 80, 200, 400, 600, 800, 995, 2000] * 3, dtype=float)
    measured = np.maximum(protocol + np.array(jitter) * bvalue_tolerance(protocol), 0)
    nominal, index = group_bvalues(measured)
    assert nominal.size == 11
    np.testing.assert_array_equal(index, np.unique(protocol, return_inverse=True)[1])


@pytest.mark.parametrize(
    "protocol",
    [
        [0, 5, 10, 20, 30, 50, 75, 150, 250, 600, 700, 800],
        [0, 1, 2, 3, 5, 8, 12],
        [0, 2, 4, 6, 8, 10],
        list(range(0, 101, 5)),
        [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120],
    ],
)
def test_steps_of_a_protocol_are_never_merged(protocol):
    np.testing.assert_array_equal(group_bvalues(protocol)[0], protocol)


def test_the_jitter_of_multiband_scanners_is_one_bvalue():
    bvals = [5, 990, 995, 1000, 1005, 1010, 1985, 1990, 2000, 2010, 9, 10, 11]
    assert group_bvalues(bvals)[0].tolist() == [5, 10, 1000, 1995]


def test_a_chain_of_close_bvalues_is_not_one_bvalue():
    bvals = np.arange(400.0, 481.0, 5.0)
    nominal, index = group_bvalues(bvals)
    assert nominal.size > 3
    assert (np.abs(nominal[index] - bvals) <= 2 * bvalue_tolerance(bvals)).all()


# directions


def table(path: Path, rows: np.ndarray) -> Path:
    np.savetxt(path, rows)
    return path


def test_bvecs_are_read_in_both_orientations(tmp_path):
    directions = np.random.default_rng(1).normal(size=(5, 3))
    bvals = np.array(BVALS)
    for rows in (directions, directions.T):
        bvecs, warnings = read_bvecs(table(tmp_path / "dwi.bvec", rows), bvals)
        np.testing.assert_allclose(bvecs, directions)
        assert [("3 columns" in warning) for warning in warnings] == [True] * (rows is directions)


def test_three_by_three_bvecs_are_rows(tmp_path):
    rows = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(read_bvecs(table(tmp_path / "a.bvec", rows), np.zeros(3))[0], rows.T)


def test_zero_and_nan_directions_are_tolerated(tmp_path):
    rows = np.ones((3, 5))
    rows[:, 0] = 0
    rows[:, 3] = np.nan
    rows[:, 4] = 0
    bvecs, warnings = read_bvecs(table(tmp_path / "dwi.bvec", rows), np.array(BVALS))
    assert np.isfinite(bvecs).all() and not bvecs[3].any()
    assert len(warnings) == 1 and " 2 volumes" in warnings[0]


@pytest.mark.parametrize("content", ["1 0 0 0\n0 1 0 0\n0 0 1 0\n", "x y z", "", "1 2 3\n4 5\n"])
def test_bvecs_that_do_not_fit_are_left_out(dataset, content):
    image = dataset.image(STEM)
    dataset.write(f"{STEM}.bvec", content)
    loaded = load(image)
    assert loaded.series.bvecs is None
    assert len(loaded.warnings) == 1 and "sub-01_dwi.bvec is left out" in loaded.warnings[0]


def test_without_bvecs_there_is_one_warning(dataset):
    loaded = load(
        dataset.image(f"{STEM}", data=DATA), dataset.image("sub-01/dwi/sub-01_run-2_dwi", data=DATA)
    )
    assert loaded.series.bvecs is None
    assert len(loaded.warnings) == 1 and "only |b| is used" in loaded.warnings[0]


# images


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"]
)
def test_values_and_geometry_are_kept_for_every_type(dataset, dtype):
    data = DATA.astype(dtype)
    affine = AFFINE.copy()
    affine[:3, :3] = affine[:3, :3] @ [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]]
    loaded = load(dataset.image(STEM, data=data, affine=affine))
    assert loaded.series.signals.dtype == np.float32
    np.testing.assert_array_equal(loaded.series.signals, data.astype(np.float32))
    np.testing.assert_allclose(loaded.series.affine, affine, atol=1e-6)
    assert loaded.series.bvals.tolist() == list(BVALS)
    assert loaded.header.get_data_shape() == data.shape


def test_slope_and_intercept_are_applied(dataset):
    image = nib.Nifti1Image(np.arange(90, dtype=np.int16).reshape(3, 3, 2, 5), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    path = dataset.image(STEM)
    nib.save(image, path)
    stored = nib.load(path).dataobj
    assert (stored.slope, stored.inter) == (0.5, -3)
    expected = np.asarray(stored.get_unscaled()) * 0.5 - 3
    np.testing.assert_allclose(load(path).series.signals, expected)


def test_uncompressed_images_are_read(dataset):
    path = dataset.image(STEM, data=DATA)
    plain = path.with_suffix("")
    nib.save(nib.load(path), plain)
    np.testing.assert_array_equal(load(plain).series.signals, DATA)


@pytest.mark.parametrize(
    ("shape", "warns"), [((3, 4, 2, 5, 1), True), ((3, 4, 2, 1, 5), True), ((3, 8, 1, 5), False)]
)
def test_singleton_dimensions(dataset, shape, warns):
    loaded = load(dataset.image(STEM, data=DATA.reshape(shape)))
    assert loaded.series.signals.shape == (*shape[:3], 5)
    np.testing.assert_array_equal(loaded.series.signals.ravel(), DATA.ravel())
    assert any("singleton" in warning for warning in loaded.warnings) == warns


def test_more_than_four_dimensions_are_refused(dataset):
    refused(dataset.image(STEM, data=np.ones((3, 4, 2, 5, 2), np.float32)), match="at most 4 dimensions")


def test_single_volumes_of_different_bvalues_make_one_series(dataset):
    images = [
        dataset.image(f"sub-01/dwi/sub-01_run-{i}_dwi", data=DATA[..., i], bvals=(b,))
        for i, b in enumerate(BVALS)
    ]
    loaded = load(*images)
    np.testing.assert_array_equal(loaded.series.signals, DATA)
    assert loaded.series.bvals.tolist() == list(BVALS)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("shape", "3 x 4 x 2 and 2 x 4 x 2 voxels"),
        ("position", "up to 1 mm apart"),
        ("size", "voxels of 2 x 2 x 4 and 3 x 2 x 4 mm"),
    ],
)
def test_runs_on_different_grids_are_not_combined(dataset, change, difference):
    first = dataset.image(STEM, data=DATA)
    moved = AFFINE.copy()
    moved[0, 3] += change == "position"
    moved[0, 0] += change == "size"
    data = DATA[:2] if change == "shape" else DATA
    second = dataset.image("sub-01/dwi/sub-01_run-2_dwi", data=data, affine=moved)
    refused(first, second, match=rf"different grids \({difference}\)")


def test_a_wrong_number_of_bvalues_names_both_counts(dataset):
    image = dataset.image(STEM, data=DATA, bvals=BVALS[:-1])
    refused(image, match=r"sub-01_dwi.nii.gz has 5 volumes but sub-01_dwi.bval has 4 b-values")


def test_the_bvals_of_the_command_line_serve_images_without(dataset):
    file = dataset.write("trace.txt", "0\n20\n50\n100\n700\n")
    without = dataset.image(STEM, bvals=None)
    assert load(without, bvals_file=file).series.bvals.tolist() == [0, 20, 50, 100, 700]
    own = dataset.image("sub-01/dwi/sub-01_run-2_dwi")
    assert load(own, bvals_file=file).series.bvals.tolist() == list(BVALS)


@pytest.mark.parametrize(
    ("bvals", "match"),
    [
        ((0, 0, 10, 10, 500), "3 distinct"),
        ((0, 995, 1000, 1005, 2000), "3 distinct"),
        ((300, 400, 500, 600, 700), "up to 200"),
    ],
)
def test_bvalues_without_ivim_information_are_refused(dataset, bvals, match):
    refused(dataset.image(STEM, bvals=bvals), match=match)


@pytest.mark.parametrize(
    ("value", "match"), [(0.0, "only zeros"), (np.nan, "only NaN"), (np.inf, "only NaN"), (1j, "complex")]
)
def test_images_without_a_signal_are_refused(dataset, value, match):
    kind = np.complex64 if value == 1j else np.float32
    refused(dataset.image(STEM, data=np.full((3, 4, 2, 5), value, kind)), match=match)


def test_colour_images_are_refused(dataset):
    colour = np.zeros((3, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(dataset.image(STEM, data=colour), match="real magnitude image")


def test_nan_volumes_are_dropped_and_islands_kept(dataset):
    data = DATA.astype(np.float64)
    bvals = (0.0, 10.0, 30.0, 50.0, 200.0)
    data[..., 2] = np.nan
    data[1, 1, 1, 0] = np.nan
    data[0, 0, 0, 4] = -np.inf
    data[0, 0, 1, 4] = 1e300
    data[2, 2, 0, 1] = -7
    loaded = load(dataset.image(STEM, data=data, bvals=bvals))
    series = loaded.series
    assert series.source_volumes.tolist() == [0, 1, 3, 4]
    assert series.bvals.tolist() == [0, 10, 50, 200]
    assert int(np.isnan(series.signals).sum()) == 3 and not np.isinf(series.signals).any()
    assert series.signals[2, 2, 0, 1] == -7
    assert any("volume 2 " in warning for warning in loaded.warnings)
    assert any("2 infinite values" in warning for warning in loaded.warnings)


def test_dropping_volumes_can_leave_too_few_bvalues(dataset):
    data = DATA[..., :4].copy()
    data[..., 3] = np.nan
    refused(dataset.image(STEM, data=data, bvals=BVALS[:4]), match="3 distinct")


@pytest.mark.parametrize(
    "content", [b"", b"not an image", gzip.compress(b"not an image" * 100, mtime=0), b"\x1f\x8b"]
)
def test_other_files_are_refused(dataset, content):
    path = dataset.image(STEM)
    path.write_bytes(content)
    refused(path, match="sub-01_dwi.nii.gz")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_images_are_refused(dataset, share, compressed):
    path = dataset.image(STEM, data=np.random.default_rng(0).normal(size=(20, 20, 4, 5)))
    if not compressed:
        content = gzip.decompress(path.read_bytes())
        path = path.with_suffix("")
        path.write_bytes(content)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, match="sub-01_dwi.nii")


def test_a_damaged_gzip_stream_is_refused(dataset):
    path = dataset.image(STEM, data=np.random.default_rng(0).normal(size=(20, 20, 4, 5)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(path, match="sub-01_dwi.nii")


@pytest.mark.parametrize("scale", [1, 20])
def test_bytes_after_the_gzip_stream_are_a_warning(dataset, scale):
    data = np.tile(DATA, (scale, scale, 1, 1))
    path = dataset.image(STEM, data=data)
    path.write_bytes(path.read_bytes() + b"rubbish" * 10)
    loaded = load(path)
    np.testing.assert_array_equal(loaded.series.signals, data)
    assert any("after the end of the gzip stream" in warning for warning in loaded.warnings)


def test_zero_padding_and_several_gzip_members_are_normal(dataset):
    path = dataset.image(STEM, data=DATA)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]) + bytes(512))
    loaded = load(path)
    np.testing.assert_array_equal(loaded.series.signals, DATA)
    assert not any("gzip" in warning for warning in loaded.warnings)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_header_that_promises_terabytes_is_refused_without_asking_for_them(dataset, compressed):
    path = dataset.image(STEM, data=DATA)
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", content, 40, 4, 30000, 30000, 30000, 5, 1, 1, 1)
    if not compressed:
        path = path.with_suffix("")
    path.write_bytes(gzip.compress(bytes(content)) if compressed else bytes(content))
    refused(path, match="truncated")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6))
def test_no_header_escapes_as_another_error(tmp_path, changes):
    dataset = Dataset(tmp_path / "ds")
    path = dataset.image(STEM, data=DATA).with_suffix("")
    nib.save(nib.Nifti1Image(DATA, AFFINE), path)
    content = bytearray(path.read_bytes())
    for position, value in changes.items():
        content[position] = value
    path.write_bytes(bytes(content))
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        try:
            series = load(path).series
        except DataError:
            return
    assert series.signals.shape[3] == series.bvals.size


def test_unfetched_content_names_datalad(dataset):
    path = dataset.image(STEM)
    path.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    with pytest.raises(MissingInputError, match=f"datalad get {path}"):
        open_image(path)
    path.unlink()
    path.symlink_to("../../.git/annex/objects/gone")
    with pytest.raises(MissingInputError, match=f"datalad get {path}"):
        load_run(DwiRun({"sub": "01"}, (SourceImage(path, None, None),)), bvals_file=None)
    path.unlink()
    with pytest.raises(MissingInputError, match="does not exist"):
        open_image(path)


@pytest.mark.parametrize(
    ("name", "image", "shape"),
    [
        ("ivim-abdomen", "sub-01/dwi/sub-01_acq-T70_dwi.nii.gz", (100, 96, 1, 72)),
        ("ivim-cord", "sub-01/dwi/sub-01_acq-ap_dwi.nii.gz", (128, 134, 6, 11)),
    ],
)
def test_real_data(name, image, shape):
    path = real_dataset(name) / image
    if not path.exists():
        pytest.skip(f"{name} is not here")
    series = load(path).series
    assert series.signals.shape == shape
    assert np.isfinite(series.signals).all() and series.signals.max() > 0


GRID = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -30], [0, 0, 5.0, 7], [0, 0, 0, 1]])


def mask_file(path, values, affine):
    nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
    return path


def test_a_mask_on_the_grid_of_the_image_is_taken_as_it_is(tmp_path):
    values = np.zeros((6, 5, 3), dtype=bool)
    values[1, 2, 0] = True
    shifted = GRID.copy()
    shifted[0, 3] += 0.01
    mask, warnings = load_mask(mask_file(tmp_path / "m.nii.gz", values, shifted), GRID)
    assert np.array_equal(mask, values)
    assert warnings == []


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR"])
def test_a_mask_stored_in_other_axes_is_turned(tmp_path, axes):
    values = np.zeros((6, 5, 3), dtype=bool)
    values[1, 2:4, 0] = True
    image = nib.Nifti1Image(values.astype(np.uint8), GRID)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(GRID), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(image.as_reoriented(turn), tmp_path / "m.nii.gz")
    mask, warnings = load_mask(tmp_path / "m.nii.gz", GRID)
    assert np.array_equal(mask, values)
    assert len(warnings) == 1


def test_a_mask_on_another_grid_is_an_error(tmp_path):
    moved = GRID.copy()
    moved[0, 3] += 1.0
    with pytest.raises(DataError, match="another grid"):
        load_mask(mask_file(tmp_path / "m.nii.gz", np.ones((6, 5, 3)), moved), GRID)


def test_a_mask_without_orientation_is_taken_to_lie_as_the_image(tmp_path):
    path = mask_file(tmp_path / "m.nii.gz", np.ones((6, 5, 3)), None)
    mask, warnings = load_mask(path, GRID)
    assert mask.all()
    assert "orientation" in warnings[0]


# Headers that do not fit their file


def header_field(path: Path, offset: int, form: str, *values: float) -> Path:
    """The image as .nii with one field of its header overwritten."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, content, offset, *values)
    plain = path.with_suffix("")
    plain.write_bytes(bytes(content))
    path.unlink()
    return plain


@pytest.mark.parametrize(
    ("offset", "form", "values", "match"),
    [
        (40, "<5h", (4, 6, 4, 2, 5), "truncated"),
        (40, "<5h", (4, -3, 4, 2, 5), "no voxel|cannot be read"),
        (40, "<5h", (4, 3, 0, 2, 5), "no voxel|cannot be read"),
        (40, "<1h", (9,), "cannot be read"),
        (70, "<1h", (12345,), "cannot be read"),
        (70, "<1h", (0,), "cannot be read"),
        (70, "<1h", (1,), "cannot be read|truncated"),
        (108, "<1f", (1e6,), "truncated"),
        (108, "<1f", (float("nan"),), "cannot be read"),
        (108, "<1f", (-16.0,), "cannot be read|truncated"),
        (112, "<2f", (2.0, float("nan")), "cannot be read"),
        (112, "<2f", (2.0, float("inf")), "cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused(dataset, offset, form, values, match):
    refused(header_field(dataset.image(STEM, data=DATA), offset, form, *values), match=match)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_a_slope_that_means_nothing_is_none(dataset, slope):
    path = header_field(dataset.image(STEM, data=DATA), 112, "<2f", slope, 0.0)
    np.testing.assert_array_equal(load(path).series.signals, DATA)


def test_more_bytes_than_the_header_promises_are_a_warning(dataset):
    path = header_field(dataset.image(STEM, data=DATA), 40, "<5h", 4, 3, 4, 1, 5)
    loaded = load(path)
    assert loaded.series.signals.shape == (3, 4, 1, 5)
    (warning,) = [text for text in loaded.warnings if "after the voxels" in text]
    assert f"{DATA.nbytes // 2} bytes" in warning


def test_a_name_that_is_wrong_about_compression_is_refused(dataset):
    path = dataset.image(STEM, data=DATA)
    content = path.read_bytes()
    path.write_bytes(gzip.decompress(content))
    refused(path, match=r"not compressed with gzip.*rename it to \.nii\)")
    path.unlink()
    path = path.with_suffix("")
    path.write_bytes(content)
    refused(path, match=r"compressed with gzip, which its name does not say: rename it to \.nii\.gz")


@pytest.mark.parametrize("damage", ["hole", "check sum", "length"])
def test_gzip_streams_with_a_hole_or_a_wrong_check_sum_are_refused(dataset, damage):
    path = dataset.image(STEM, data=np.random.default_rng(0).normal(size=(20, 20, 4, 5)))
    content = bytearray(path.read_bytes())
    if damage == "hole":
        middle = len(content) // 2
        del content[middle : middle + 100]
    else:
        content[-8 if damage == "check sum" else -4] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(path, match="sub-01_dwi.nii.gz cannot be read")


def test_parts_are_read_one_after_the_other(dataset):
    first = dataset.image("sub-01/dwi/sub-01_run-1_dwi", data=DATA)
    second = dataset.image("sub-01/dwi/sub-01_run-2_dwi", data=2 * DATA)
    loaded = load(first, second)
    np.testing.assert_array_equal(loaded.series.signals, np.concatenate([DATA, 2 * DATA], axis=3))
    np.testing.assert_array_equal(loaded.series.source_volumes, np.arange(10))


def test_volumes_left_out_keep_their_places_in_the_source(dataset):
    data = DATA.copy()
    data[..., [1, 4]] = np.nan
    bvals = (0.0, 5.0, 10.0, 50.0, 90.0, 200.0, 800.0)
    data = np.concatenate([data, DATA[..., :2]], axis=3)
    loaded = load(dataset.image(STEM, data=data, bvals=bvals))
    assert loaded.series.source_volumes.tolist() == [0, 2, 3, 5, 6]
    np.testing.assert_array_equal(loaded.series.signals, data[..., [0, 2, 3, 5, 6]])
    assert loaded.series.bvals.tolist() == [0, 10, 50, 200, 800]


# units


@pytest.mark.parametrize(
    ("bvals", "highest", "unit"),
    [
        ((0, 0.01, 0.05, 0.2, 0.8), "0.8", "ms/um^2"),
        ((0, 0.8, 1.6, 2.5, 2.5), "2.5", "ms/um^2"),
        ((0, 1e7, 5e7, 2e8, 8e8), "8e+08", "s/m^2"),
    ],
)
def test_b_values_in_another_unit_are_refused_by_their_own_number(dataset, bvals, highest, unit):
    with pytest.raises(DataError, match=re.escape(f"the highest b-value is {highest}, as in {unit}")):
        load(dataset.image(STEM, bvals=bvals))


def test_b_values_are_named_as_the_file_has_them(dataset):
    with pytest.raises(DataError, match=r"has 3 distinct b-values \(0, 48-52, 700\)"):
        load(dataset.image(STEM, bvals=(0, 48, 52, 700, 700)))


# one table for several images


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.data())
def test_a_table_for_all_images_together_is_shared_out_in_their_order(tmp_path_factory, volumes, data):
    values = data.draw(st.lists(st.integers(0, 900), min_size=sum(volumes), max_size=sum(volumes)))
    table = tmp_path_factory.mktemp("tables") / "b.txt"
    table.write_text(" ".join(map(str, values)))
    parts = [SourceImage(Path(f"run-{number}.nii"), None, None) for number in range(len(volumes))]
    found, (said,) = part_bvals(parts, volumes, table)
    assert [bvals.size for bvals in found] == volumes
    assert np.concatenate(found).tolist() == values
    assert all(part.image.name in said for part in parts)


def test_a_table_that_is_too_short_for_images_that_are_combined_is_told_so(dataset):
    images = [
        dataset.image(f"sub-01/dwi/sub-01_run-{i}_dwi", data=DATA[..., i], bvals=None) for i in range(3)
    ]
    with pytest.raises(DataError, match="the 3 images that are combined have 3 volumes together"):
        load(*images, bvals_file=dataset.write("b.txt", "0 100"))


@given(st.integers(1, 4), st.integers(2, 6))
def test_a_table_for_each_image_is_given_to_each(tmp_path_factory, volumes, images):
    table = tmp_path_factory.mktemp("tables") / "b.txt"
    table.write_text("0 " * volumes)
    parts = [SourceImage(Path("a.nii"), None, None)] * images
    found, said = part_bvals(parts, [volumes] * images, table)
    assert [bvals.size for bvals in found] == [volumes] * images and said == []
