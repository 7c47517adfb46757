"""What docs/privacy.md says of outputs holds for a tree that the app wrote."""

from __future__ import annotations

import gzip
from pathlib import Path

from app_runs import BVALS, App, add_run, dataset


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def test_only_the_description_and_the_logs_name_folders_of_this_machine(tmp_path, capsys):
    made, out, app = dataset(tmp_path / "home" / "erika"), tmp_path / "out", App(capsys)
    add_run(made, "sub-02", bvals=BVALS[:-1])
    assert app.quick(made, out, "--report-level", "full").code == 1
    assert app.raw(made.root, out, "group").code == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {".html", ".json", ".tsv", ".gz", ".svg", ".md"} <= {path.suffix for path in files}
    naming = {path.relative_to(out) for path in files if str(tmp_path).encode() in content(path)}
    assert {path for path in naming if path.parts[0] != "logs"} == {Path("dataset_description.json")}
