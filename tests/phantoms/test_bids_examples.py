"""The datasets in ``bids_examples`` are what the commands in its README make."""

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sicnn_app.cli.simulate import main
from sicnn_app.derivatives.written import RECORDS

EXAMPLES = Path(__file__).parents[2] / "bids_examples"
COMMANDS = [
    shlex.split(line)[1:]
    for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("sicnn-simulate ")
]


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    root = tmp_path_factory.mktemp("remade")
    for name, *words in COMMANDS:
        assert main([str(root / name), *words]) == 0
    return root


def files(root):
    """Every file but the record of what the command wrote, which the repository does not hold."""
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in found if RECORDS not in path.parts)


def test_the_readme_names_every_dataset():
    assert sorted(name for name, *_ in COMMANDS) == sorted(p.name for p in EXAMPLES.iterdir() if p.is_dir())
    assert len(COMMANDS) >= 2


def test_the_commands_make_the_same_files(remade):
    assert [name for name in files(EXAMPLES) if name != "README.md"] == files(remade)


def test_texts_are_the_same(remade):
    for name in files(remade):
        if name.endswith(".nii.gz"):
            continue
        stored, made = ((root / name).read_text(encoding="utf-8") for root in (EXAMPLES, remade))
        if name.endswith("dataset_description.json"):
            # The version of the app that wrote the example may be an earlier one.
            stored, made = json.loads(stored), json.loads(made)
            del stored["GeneratedBy"][0]["Version"], made["GeneratedBy"][0]["Version"]
        assert stored == made, name


def test_images_are_the_same(remade):
    images = [name for name in files(remade) if name.endswith(".nii.gz")]
    assert len(images) == 3 + 3 * 6
    for name in images:
        stored, made = (nib.load(root / name) for root in (EXAMPLES, remade))
        assert stored.header == made.header, name
        # Exponentials differ in the last bit between processors: one step of the stored integers.
        step = made.dataobj.slope if name.endswith("_dwi.nii.gz") else 0.0
        np.testing.assert_allclose(
            made.get_fdata(), stored.get_fdata(), rtol=1e-6, atol=1.001 * step, err_msg=name
        )


def test_they_are_small_and_one_is_32_by_32_by_4():
    assert sum((EXAMPLES / name).stat().st_size for name in files(EXAMPLES)) < 700_000
    shapes = [nib.load(path).shape for path in EXAMPLES.rglob("*_dwi.nii.gz")]
    assert any(x >= 32 and y >= 32 and z >= 4 for x, y, z, _ in shapes)
