"""Only the header of an image is read to judge it, as NIfTI and nothing else, whatever it promises."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_runs import App, Call, body, dataset, environment, leave_out_figures, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.bids.images import open_image
from sicnn_app.bids.masks import load_labels, load_mask
from sicnn_app.bids.unpacked import CHUNK, Unpacked, digests_of_reads
from sicnn_app.errors import DataError

STEM = "sub-01/dwi/sub-01"
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
BOMB = 1 << 29
"""Bytes; twice what the app is given besides its libraries."""

ROOM = BOMB >> 1

IN_LITTLE_MEMORY = f"""
import resource, sys
import bids.layout, nilearn, scipy.linalg, scipy.ndimage
from sicnn_app.cli.main import main

mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + {ROOM}, mapped + {ROOM}))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def app(capsys, monkeypatch) -> App:
    leave_out_figures(monkeypatch)
    return App(capsys)


def zeros(size: int) -> bytes:
    """Members of a gzip stream that unfold to so many zeros, made in no time."""
    block = 1 << 24
    return gzip.compress(bytes(block), 1) * (size // block) + gzip.compress(bytes(size % block))


def with_extensions(path: Path, size: int, *, intent: int = 0, code: int = 4, text: bytes = b"") -> Path:
    """The image as NIfTI-2 with one extension of its header of so many bytes."""
    image = nib.load(path)
    header = bytearray(nib.Nifti2Image(np.asarray(image.dataobj), image.affine).to_bytes()[:540])
    fields = np.ndarray((), nib.nifti2.header_dtype, buffer=header)
    start = 544 + size
    fields["vox_offset"], fields["intent_code"] = start, intent
    extension = struct.pack("<4B2i", 1, 0, 0, 0, size, code) + text
    path.write_bytes(
        gzip.compress(bytes(header) + extension)
        + zeros(start - 540 - len(extension))
        + gzip.compress(np.asarray(image.dataobj).tobytes(order="F"))
    )
    return path


def test_extensions_of_half_a_gigabyte_take_no_memory(tmp_path):
    made = dataset(tmp_path / "bids")
    path = with_extensions(made.root / f"{STEM}_dwi.nii.gz", BOMB)
    assert path.stat().st_size < 1 << 22
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, made.root, tmp_path / "out", "participant", "--mem", "1",
         "--dry-run"],
        capture_output=True, text=True, check=False, timeout=300, env=environment(),
    )  # fmt: skip
    call = Call(done.returncode, done.stdout, done.stderr)
    assert call.code == 0, call.text
    assert "12 x 10 x 2" in call.out and "cannot be read" not in call.text


def test_extensions_are_passed_over(app, tmp_path):
    plain, extended = (dataset(tmp_path / name) for name in ("plain", "extended"))
    with_extensions(extended.root / f"{STEM}_dwi.nii.gz", 1 << 20)
    for made in (plain, extended):
        assert app.quick(made, made.root.parent / f"out {made.root.name}").code == 0
    for label in ("f", "d", "dstar"):
        maps = [values(tmp_path / f"out {name}", STEM, label) for name in ("plain", "extended")]
        np.testing.assert_array_equal(*maps)


def test_what_says_that_it_is_cifti_is_nifti_all_the_same(app, tmp_path):
    made = dataset(tmp_path / "bids", "sub-01", "sub-02")
    path = with_extensions(
        made.root / f"{STEM}_dwi.nii.gz", 1024, intent=3001, code=32, text=b"<CIFTI Version='2'><Matr"
    )
    # Such files are never compressed.
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    call = app.quick(made, tmp_path / "out")
    assert call.code == 0, call.text


def stored(kind: type[nib.Nifti1Image], **fields) -> bytes:
    """An image file of :func:`body` with some fields of its header overwritten."""
    content = bytearray(kind(body(), AFFINE).to_bytes())
    header = np.ndarray((), kind.header_class.template_dtype, buffer=content)
    for field, value in fields.items():
        header[field] = value
    return bytes(content)


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.nii", bytes(1 << 24))
    return content.getvalue()


V1, V2 = nib.Nifti1Image, nib.Nifti2Image
REFUSED = {
    "gzip in gzip": gzip.compress(stored(V1)),
    "zip": zipped(),
    "Analyze": nib.AnalyzeImage(body(), AFFINE).header.binaryblock + bytes(1000),
    "MGH": nib.MGHImage(body(), AFFINE).to_bytes(),
    "half a header": stored(V1)[:200],
    "half a header of NIfTI-2": stored(V2)[:400],
    "header of a pair": stored(V1, magic=b"ni1", vox_offset=0),
    "header of a pair of NIfTI-2": stored(V2, magic=b"ni2", vox_offset=0),
    "2^15 voxels along all axes": stored(V1, dim=(7, *[32767] * 7)),
    "2^62 voxels along an axis": stored(V2, dim=(4, 2**62, 2**62, 2**62, 8, 1, 1, 1)),
    "sizes whose product is 0 in 64 bits": stored(V2, dim=(4, 2**32, 2**32, 1, 1, 1, 1, 1)),
    "negative size": stored(V2, dim=(4, -12, 10, 2, 8, 1, 1, 1)),
    "negative offset": stored(V2, vox_offset=-(2**40)),
    "offset beyond the file": stored(V2, vox_offset=2**62),
    "infinite offset": stored(V1, vox_offset=np.inf),
    "type of 0 bits": stored(V1, datatype=1),
    "type of none": stored(V1, datatype=-1),
    "intercept of infinity": stored(V1, scl_slope=2, scl_inter=np.inf),
    "nothing but ones": b"\xff" * 1000,
    "surface of FreeSurfer": stored(V1, dim=(4, -1, 1, 1, 8, 1, 1, 1), glmin=2**30),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_or_lies_is_refused_without_asking_for_memory(tmp_path, kind, compressed):
    path = tmp_path / ("image.nii.gz" if compressed else "image.nii")
    path.write_bytes(gzip.compress(REFUSED[kind]) if compressed else REFUSED[kind])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"image\.nii") as error:
            open_image(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("fields", [
    {"bitpix": 8}, {"sizeof_hdr": 0}, {"scl_slope": np.nan}, {"scl_slope": np.inf}, {"scl_slope": 0},
    {"intent_code": 3001}, {"xyzt_units": 255}, {"dim_info": 255}, {"slice_code": 77},
], ids=str)  # fmt: skip
def test_fields_that_change_nothing_may_be_wrong(tmp_path, fields):
    path = tmp_path / "image.nii"
    path.write_bytes(stored(V1, **fields))
    assert open_image(path).shape == (12, 10, 2, 8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    st.sampled_from([V1, V2]),
    st.dictionaries(st.integers(0, 543), st.integers(0, 255), max_size=12),
    st.integers(0, 4096),
)
def test_any_header_is_an_image_or_refused(tmp_path, kind, changes, length):
    content = bytearray(stored(kind))
    for position, value in changes.items():
        content[position] = value
    path = tmp_path / "image.nii"
    path.write_bytes(bytes(content[:length] if length < 2048 else content))
    try:
        image = open_image(path)
    except DataError:
        return
    assert isinstance(image, nib.Nifti1Image) and np.isfinite(image.affine).all()


# Masks and segmentations that unfold --------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_mask, load_labels])
def test_a_mask_that_unfolds_is_refused_before_it_is_read(tmp_path, load):
    path = tmp_path / "mask.nii.gz"
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1024, 1024, 512))
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) + zeros(1 << 29))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"mask\.nii\.gz promises .* voxels, more than any map has"):
            load(path, AFFINE, shape=(12, 10, 2))
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_labels_of_any_size_are_read_exactly(tmp_path):
    labels = np.zeros((12, 10, 2), np.int32)
    labels[2:4], labels[5] = 2**24 + 1, 2**31 - 1
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "dseg.nii.gz")
    found, _ = load_labels(tmp_path / "dseg.nii.gz", AFFINE, shape=labels.shape)
    np.testing.assert_array_equal(found, labels)


# The bytes of a file -----------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=4), st.sampled_from([b"", b"\0" * 99, b"rest", b"\x1f"]))
def test_a_file_is_unpacked_and_hashed_whole(tmp_path, members, rest):
    packed = tmp_path / "a.gz"
    packed.write_bytes(b"".join(map(gzip.compress, members)) + rest)
    plain = tmp_path / "a"
    plain.write_bytes(packed.read_bytes())
    with digests_of_reads() as read:
        content = Unpacked(packed)
        assert b"".join(content) == b"".join(members)
        assert b"".join(Unpacked(plain)) == plain.read_bytes()
    assert content.trailing == (rest in (b"rest", b"\x1f"))
    assert read == dict.fromkeys((packed, plain), hashlib.sha256(plain.read_bytes()).hexdigest())


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_gzip_member_may_begin_anywhere(tmp_path, left):
    """Its two first bytes may be read at different times."""
    text = np.random.default_rng(0).bytes(CHUNK - 200)

    def member(name: str) -> bytes:
        stream = io.BytesIO()
        with gzip.GzipFile(name, "wb", 0, stream, mtime=0) as file:
            file.write(text)
        return stream.getvalue()

    first = member("x" * (CHUNK - left - len(member("x")) + 1))
    assert len(first) == CHUNK - left
    path = tmp_path / "a.gz"
    path.write_bytes(first + gzip.compress(b"second"))
    assert b"".join(Unpacked(path)) == text + b"second"


def test_a_file_that_is_not_read_to_its_end_has_no_hash(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * CHUNK))
    with digests_of_reads() as read:
        assert Unpacked(path).start(10) == bytes(10)
    assert read == {}


# Byte order --------------------------------------------------------------------------------------------


def in_order(order: str, kind: type[nib.Nifti1Image], path: Path) -> None:
    """The run of a dataset as int16 with a slope, in a byte order."""
    header = kind.header_class(endianness=order)
    header.set_sform(AFFINE, 2)
    header.set_data_shape((12, 10, 2, 8))
    header.set_data_dtype(np.dtype("int16"))
    header["scl_slope"], header["scl_inter"] = 0.5, -3
    header["vox_offset"] = 544
    voxels = np.round(body() * 2 + 6).astype(f"{order}i2")
    path.write_bytes(
        gzip.compress(header.binaryblock + bytes(544 - header.sizeof_hdr) + voxels.tobytes(order="F"))
    )


@pytest.mark.parametrize("kind", [V1, V2])
def test_maps_are_in_the_byte_order_of_the_machine(app, tmp_path, kind):
    for order in "<>":
        made = dataset(tmp_path / f"bids {order}")
        in_order(order, kind, made.root / f"{STEM}_dwi.nii.gz")
        call = app.quick(made, tmp_path / order)
        assert call.code == 0, call.text
    little, big = ({path.name: path for path in (tmp_path / order).rglob("*.nii.gz")} for order in "<>")
    assert set(little) == set(big) and len(big) > 6
    for name, path in big.items():
        assert nib.load(path).header.endianness == {"little": "<", "big": ">"}[sys.byteorder]
        assert path.read_bytes() == little[name].read_bytes()
        assert nib.load(path).header["sform_code"] == 2
