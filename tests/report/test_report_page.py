"""The HTML page of a subject: self-contained, complete, tolerant and the same every time."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from factories import make_result, source_header
from PIL import Image

from sicnn_app.derivatives.write import write_run
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.report.html import build_report

VOID = {"meta", "link", "img", "input", "br"}
LOADING = {"img": "src", "link": "href", "script": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(tmp_path: Path, **options) -> Path:
    """Write one synthetic run; gives the output folder."""
    out = tmp_path / "out"
    write_run(make_result(tmp_path, **options), out, bids_dir=tmp_path / "bids", dataset_links={})
    return out


def outputs(out: Path, ending: str) -> list[Path]:
    return sorted((out / "sub-01" / "dwi").glob(f"*{ending}"))


def lighten(out: Path) -> Path:
    """Remove maps whose pictures a test does not look at: drawing takes most of its time."""
    for label in ("d", "dstar", "s0"):
        outputs(out, f"param-{label}_dwimap.nii.gz")[0].unlink()
    return out


def plain_text(html: str) -> str:
    return re.sub(
        r"\s+",
        " ",
        re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>|data:[^\"]+", "", html, flags=re.DOTALL)),
    )


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("two")
    write(tmp_path, entities={"sub": "01", "run": "1"})
    out = write(
        tmp_path, entities={"sub": "01", "run": "2"}, method="lsq", iterations=1, anatomy="brain", seed=1
    )
    path = build_report(out, "01", None, errors=["sub-01_run-3: <b>truncated</b> & unreadable"])
    return out, path


@pytest.fixture(scope="module")
def html(two_runs):
    return two_runs[1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_page_and_figures_lie_where_the_contract_says(two_runs):
    out, path = two_runs
    assert path == out / "sub-01.html"
    figures = sorted(figure.name for figure in (out / "sub-01" / "figures").iterdir())
    assert {
        f"sub-01_run-1_desc-{desc}_dwi.png" for desc in ("fmap", "dmap", "dstarmap", "s0map", "rmsemap")
    } <= set(figures)
    assert all(
        re.fullmatch(r"sub-01_run-[12]_desc-[a-z0-9]+_dwi\.(png|svg|tsv|json|html)", name) for name in figures
    )


def test_page_loads_nothing_from_outside(html, page):
    for tag, attribute in LOADING.items():
        for attributes in page.all(tag):
            assert (attributes.get(attribute) or "data:").startswith("data:"), (tag, attributes)
    assert page.all("script") == [{}]
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;") and "connect-src" not in policy
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    style = re.search(r"<style>(.*?)</style>", html, flags=re.DOTALL).group(1)
    assert "url(" not in style and "@import" not in style


def test_pictures_decode_and_are_the_files_on_disk(two_runs, page):
    out, _ = two_runs
    on_disk = [
        figure.read_bytes()
        for figure in (out / "sub-01" / "figures").iterdir()
        if figure.suffix in (".png", ".svg")
    ]
    pictures = page.all("img")
    assert len(pictures) == len(on_disk) > 15
    for attributes in pictures:
        kind, content = attributes["src"].split(";base64,")
        data = base64.b64decode(content, validate=True)
        assert data in on_disk
        if kind == "data:image/png":
            image = Image.open(io.BytesIO(data))
            image.load()
            assert image.width >= 1000
        else:
            root = ElementTree.fromstring(data)
            assert root.tag.endswith("svg")
            references = [
                value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")
            ]
            assert all(reference.startswith("#") for reference in references)


def test_page_is_well_formed_and_accessible(html, page):
    assert page.unbalanced == [] and page.open == []
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    assert all((attributes.get("alt") or "").strip() for attributes in page.all("img"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))


def test_every_link_within_the_page_has_its_target(page):
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    inside = [attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")]
    assert len(inside) > 10 and set(inside) <= set(identifiers)


def test_page_says_what_was_done_and_found(two_runs, html):
    out, _ = two_runs
    text = plain_text(html)
    for expected in (
        "SI-CNN",
        "Least squares",
        "MP-PCA denoising",
        "threshold of the image at the lowest b-value",
        "sub-01_dwi.bvec is missing",
        "the relative change of the training signals fell below lambda",
        "a" * 64,
        "10⁻³",
        "reconstructed from the supplement",
        "Radiological convention",
    ):
        assert expected in text.replace("\u00a0", " "), expected
    f_map = nib.load(out / "sub-01/dwi/sub-01_run-1_model-ivim_param-f_dwimap.nii.gz").get_fdata()
    voxels = int(np.isfinite(f_map).sum())
    summary = re.search(r'<tr><th scope="row">run-1</th>(.*?)</tr>', html, flags=re.DOTALL).group(1)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", summary)
    assert cells[1] == f"{voxels:,}"
    assert float(cells[3]) == pytest.approx(100 * np.nanmedian(f_map), rel=5e-3)
    d_map = nib.load(out / "sub-01/dwi/sub-01_run-1_model-ivim_param-d_dwimap.nii.gz").get_fdata()
    assert float(cells[4]) == pytest.approx(1000 * np.nanmedian(d_map), rel=5e-3)


def test_flag_counts_are_those_of_the_segmentation(two_runs, html):
    out, _ = two_runs
    flags = np.asarray(nib.load(out / "sub-01/dwi/sub-01_run-1_desc-ivimflags_dseg.nii.gz").dataobj)
    shown = [
        int(count.replace(",", ""))
        for count in re.findall(r"</small></th><td>([0-9,]+)</td>", html.split('id="run-sub-01_run-2"')[0])
    ]
    assert shown == [int((flags == code).sum()) for code in (spec.code for spec in FLAGS)]
    assert sum(shown) > 0


def test_errors_are_shown_and_escaped(html):
    assert "sub-01_run-3: &lt;b&gt;truncated&lt;/b&gt; &amp; unreadable" in html


def test_bvalue_table_has_one_row_per_b(html):
    table = html.split("Signals by b-value")[2].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    assert [row[0] for row in rows[1:]] == ["0", "10", "50", "100", "400", "800"]
    means = [float(row[3]) for row in rows[1:]]
    assert means == sorted(means, reverse=True)
    assert all(row[1] == "2" and row[2] == "2" for row in rows[1:])


def test_same_derivatives_give_the_same_bytes(two_runs, tmp_path):
    out, path = two_runs
    errors = ["sub-01_run-3: <b>truncated</b> & unreadable"]
    written = {}
    build_report(out, "01", None, errors=errors, write_bytes=written.__setitem__)
    assert written.pop(path) == path.read_bytes()
    assert all(figure.read_bytes() == content for figure, content in written.items()) and written


def test_page_names_no_folder_of_this_machine(two_runs, html):
    out, _ = two_runs
    assert str(out) not in html and str(out.parent) not in html


def test_size_stays_small(two_runs):
    assert two_runs[1].stat().st_size < 3_000_000


def test_a_large_noisy_series_stays_below_ten_megabytes(tmp_path):
    out = write(tmp_path, shape=(160, 160, 12), bvals=(0.0, 50.0, 400.0, 800.0), repeats=1, with_bvecs=False)
    assert build_report(out, "01", None).stat().st_size < 5_000_000


def test_sessions_have_pages_of_their_own(tmp_path):
    for session in ("1", "2"):
        out = write(tmp_path, entities={"sub": "01", "ses": session})
    first, second = (build_report(out, "01", session) for session in ("1", "2"))
    assert (first.name, second.name) == ("sub-01_ses-1.html", "sub-01_ses-2.html")
    assert "ses-2" not in first.read_text(encoding="utf-8")
    assert {figure.name.split("_desc")[0] for figure in (out / "sub-01/figures").iterdir()} == {
        "sub-01_ses-1",
        "sub-01_ses-2",
    }


def test_another_subject_with_the_same_beginning_is_left_out(tmp_path):
    write(tmp_path, entities={"sub": "01"})
    out = write(tmp_path, entities={"sub": "011"})
    for path in outputs(out, ".nii.gz"):
        path.unlink()
    assert "sub-011" not in build_report(out, "01", None).read_text(encoding="utf-8")


@pytest.mark.parametrize(("shape", "clusters"), [((7, 5, 1), 0), ((40, 3, 2), 3), ((5, 5, 17), 5)])
def test_single_slices_and_odd_sizes(tmp_path, shape, clusters):
    page = Page(build_report(write(tmp_path, shape=shape), "01", None).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 15 + (clusters + 1 if clusters else 0)


def test_image_without_orientation_says_so(tmp_path):
    header = source_header((9, 8, 3, 12), sform_code=0, qform_code=0)
    header.set_zooms((1, 1, 1, 1))
    text = plain_text(
        build_report(lighten(write(tmp_path, header=header)), "01", None).read_text(encoding="utf-8")
    )
    assert "states no orientation" in text and "Radiological convention" not in text


@pytest.mark.parametrize(
    "ending",
    [
        "param-f_dwimap.nii.gz",
        "param-f_dwimap.json",
        "ivimflags_dseg.*",
        "preproc_dwi.*",
        "_qc.*",
        ".json",
        ".nii.gz",
    ],
)
def test_missing_pieces_are_tolerated(tmp_path, ending):
    out = lighten(write(tmp_path))
    removed = outputs(out, ending)
    assert removed
    for path in removed:
        path.unlink()
    text = plain_text(build_report(out, "01", None).read_text(encoding="utf-8"))
    assert "IVIM report: sub-01" in text and "Settings and versions" in text
    assert "could not be read" not in text


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not an image"])
def test_broken_images_are_named_and_the_rest_is_shown(tmp_path, damage):
    out = write(tmp_path, shape=(20, 20, 3))
    broken = [
        *outputs(out, "param-d_dwimap.nii.gz"),
        *outputs(out, "ivimflags_dseg.nii.gz"),
        *outputs(out, "preproc_dwi.nii.gz"),
    ]
    for path in broken:
        path.write_bytes(damage(path.read_bytes()))
    html = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "Files that could not be read" in html and str(out) not in html
    assert all(f"{path.name} cannot be read" in html for path in broken) and len(broken) == 3
    assert "F, perfusion fraction" in html and "D, tissue diffusion" not in html


def test_broken_json_and_values_of_other_types_are_tolerated(tmp_path):
    out = write(tmp_path)
    for path in outputs(out, ".nii.gz"):
        path.unlink()
    (sidecar,) = outputs(out, "param-f_dwimap.json")
    sidecar.write_text("{")
    (training,) = outputs(out, "training_qc.json")
    training.write_text(json.dumps({"TrainingLoss": [[0, 1], "x", [0, 1, None], [0, 0, 0.5], [0, 1, 0.25]]}))
    (qc,) = outputs(out, "ivim_qc.json")
    qc.write_text("[1, 2]")
    html = build_report(out, "01", None).read_text(encoding="utf-8")
    assert f"{sidecar.name} is not valid JSON" in html and f"{qc.name} holds no JSON object" in html
    assert "Training loss" in html and "from 0.500 to 0.250" in html


def test_map_of_another_shape_is_left_out(tmp_path):
    out = write(tmp_path)
    (path,) = outputs(out, "param-dstar_dwimap.nii.gz")
    nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_filename(path)
    html = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "the image dstar has another shape" in html and "Distribution of D*" not in html


def test_series_with_other_bvalues_than_the_image_is_named(tmp_path):
    out = lighten(write(tmp_path))
    (bval,) = outputs(out, "preproc_dwi.bval")
    bval.write_text("0 10 50\n")
    html = build_report(out, "01", None).read_text(encoding="utf-8")
    assert "does not fit its b-values" in html and "Signal decay" not in html


def test_no_outputs_at_all_still_gives_a_page_with_the_errors(tmp_path):
    path = build_report(tmp_path, "07", None, errors=["sub-07_dwi.nii.gz is truncated"])
    text = plain_text(path.read_text(encoding="utf-8"))
    assert "No maps of this subject were written" in text and "sub-07_dwi.nii.gz is truncated" in text
    assert not (tmp_path / "sub-07").exists()


def test_no_display_home_or_pyplot_is_needed(tmp_path):
    out = write(tmp_path)
    lighten(out)
    script = (
        "import sys; from pathlib import Path; from sicnn_app.report.html import build_report; "
        "build_report(Path(sys.argv[1]), '01', None); "
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("DISPLAY", "MPLCONFIGDIR", "MPLBACKEND")
    }
    environment |= {"HOME": os.devnull, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], check=False, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (out / "sub-01.html").is_file()


def test_motion_is_drawn_where_it_was_corrected(tmp_path):
    out = write(tmp_path)
    lighten(out)
    assert "Motion between volumes" not in build_report(out, "01", None).read_text(encoding="utf-8")
    columns = ["volume", "b_value", *(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")]
    rows = [[volume, 0, 0.1 * volume, 0, 0, 0, 0, -0.2 * volume] for volume in range(4)]
    lines = ["\t".join(map(str, row)) for row in [columns, *rows]]
    (out / "sub-01" / "dwi" / "sub-01_desc-motion_qc.tsv").write_text("\n".join(lines) + "\n")
    text = plain_text(build_report(out, "01", None).read_text(encoding="utf-8"))
    assert "Motion between volumes" in text
    page = Page((out / "sub-01.html").read_text(encoding="utf-8"))
    alts = [str(image.get("alt")) for image in page.all("img")]
    assert "Translation of 4 volumes; the largest is 0.300, translation (mm)." in alts
    assert "Rotation of 4 volumes; the largest is 0.600, rotation (degrees)." in alts


def test_series_read_volume_by_volume_gives_the_true_means(tmp_path):
    from sicnn_app.derivatives.collect import collect_run

    out = write(tmp_path)
    for path in outputs(out, "averaged_dwi.nii.gz"):
        path.unlink()
    run = collect_run(out, "01", None, "sub-01")
    series = nib.load(outputs(out, "preproc_dwi.nii.gz")[0]).get_fdata()
    expected = series[run.mask].reshape(-1, 6, 2).mean(axis=2).T
    np.testing.assert_allclose(run.measured.in_mask, expected, rtol=1e-5)
    np.testing.assert_allclose(run.measured.baseline, series[..., :2].mean(axis=-1), rtol=1e-5)
