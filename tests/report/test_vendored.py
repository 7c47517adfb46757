"""Libraries inside the pages are the files that npm has, and come with their licences."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import pandas as pd
import pytest

import sicnn_app.report
from sicnn_app.report.page import vendored

FOLDER = Path(sicnn_app.report.__file__).parent / "vendor"
TABLE = FOLDER / "libraries.tsv"
LIBRARIES = [row for _, row in pd.read_csv(TABLE, sep="\t").iterrows()]


@pytest.mark.parametrize("row", LIBRARIES, ids=lambda row: PurePosixPath(row.npm_path).name)
def test_a_file_is_the_published_one_and_can_stand_in_a_page(row):
    content = (FOLDER / PurePosixPath(row.npm_path).name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == row.sha256
    assert f"@{row.version}/" in row.npm_path
    ends_the_element = ("</style",) if row.npm_path.endswith(".css") else ("</script", "<!--")
    assert not any(word in content.decode().lower() for word in ends_the_element)


@pytest.mark.parametrize("row", LIBRARIES, ids=lambda row: row["name"])
def test_a_library_comes_with_its_licence(row):
    assert "Copyright" in vendored(f"{row['name']}.LICENSE.txt")


def test_nothing_lies_there_that_the_table_does_not_name():
    named = {PurePosixPath(row.npm_path).name for row in LIBRARIES}
    named |= {f"{row['name']}.LICENSE.txt" for row in LIBRARIES} | {TABLE.name}
    assert {path.name for path in FOLDER.iterdir()} == named
