"""What is offered to BIDS and its registry of apps says what the app writes and is."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from factories import make_result

from sicnn_app.bids.associate import parse_name
from sicnn_app.derivatives.dataset import DESCRIPTIONS
from sicnn_app.derivatives.names import CONVENTIONAL, SPREAD, expected_outputs, map_ending
from sicnn_app.derivatives.sidecar import IVIM_URL, DatasetRoots, map_sidecar
from sicnn_app.dicom.parametric_map import QUANTITIES
from sicnn_app.ivim.parameters import BOUNDS, MAPS, SPECS, TISSUE_LABELS

ROOT = Path(__file__).parents[1]
TERMS = yaml.safe_load((ROOT / "docs/bids/ivim-terms.yaml").read_text(encoding="utf-8"))
APPS = yaml.safe_load((ROOT / "docs/bids/apps.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/bids.md").read_text(encoding="utf-8")


def test_the_terms_are_those_that_are_written():
    assert list(TERMS["params"]) == [spec.label for spec in MAPS]
    assert {label: term["unit"] for label, term in TERMS["params"].items()} == {
        spec.label: spec.unit for spec in MAPS
    }
    assert TERMS["model"]["url"] == IVIM_URL
    assert set(TERMS["desc"]) == {SPREAD, CONVENTIONAL} <= set(DESCRIPTIONS)
    name = f"sub-01_{map_ending('dstar', SPREAD)}.nii.gz"
    assert re.findall(r"_([a-z]+)-", name) == TERMS["entities"]
    parsed = parse_name(name)
    assert parsed is not None and parsed.suffix == TERMS["suffix"]
    assert parsed.entities["model"] == TERMS["model"]["label"]


def test_the_codes_of_dicom_are_those_of_the_objects_that_are_written():
    stated = {label: term["dicom"]["value"] for label, term in TERMS["params"].items() if "dicom" in term}
    dcm = pytest.importorskip("pydicom.sr.codedict").codes.DCM
    assert stated == {label: getattr(dcm, name).value for label, name in QUANTITIES.items()}


def test_the_page_names_every_kind_of_output(tmp_path):
    run = make_result(tmp_path).run
    outputs = expected_outputs(
        run, tmp_path, anatomy="body", spread=True, conventional=True, motion=True, regions=True
    )
    for path in outputs:
        parsed = parse_name(path.name)
        assert parsed is not None, path
        desc = parsed.entities.get("desc")
        assert f"`{parsed.suffix}`" in PAGE or f"_{parsed.suffix}." in PAGE, path
        assert desc is None or re.search(rf"desc-(\{{[a-z,]*\b)?{desc}(?![0-9a-z])", PAGE), path


@pytest.mark.parametrize("desc", [None, SPREAD, CONVENTIONAL])
def test_fields_of_the_draft_stand_where_they_fit(tmp_path, desc):
    result, roots = make_result(tmp_path), DatasetRoots({"raw": tmp_path})
    for label, spec in SPECS.items():
        content = map_sidecar(result, spec, roots, desc)
        assert content.get("ParameterURL") == (IVIM_URL if label in TISSUE_LABELS else None)
        constrained = label in BOUNDS and desc != SPREAD
        assert content.get("NonNegativity") == ("constrained" if constrained else None)
        assert "BootstrapAxis" not in content
        assert "Samples" not in content["Model"]["Parameters"]
    estimate = replace(result.estimate, parameters={**result.estimate.parameters, "ensemble": 7})
    content = map_sidecar(replace(result, estimate=estimate), SPECS["f"], roots, desc)
    assert content["Model"]["Parameters"]["Samples"] == 7


def test_the_entry_of_the_registry_has_its_fields():
    (entry,) = APPS
    # What the registry's own template has, and no more.
    assert set(entry) <= {
        "gh", "dh", "description", "status", "ds_type", "datatype", "ci", "branch", "workflow",
    }  # fmt: skip
    for key in ("gh", "dh"):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry[key])
    assert entry["status"] == "active" and entry["ci"] in ("gh", "travis", "circleci", "none")
    assert set(entry["ds_type"]) <= {"raw", "derivative"} and entry["datatype"] == ["dwi"]
    workflow = yaml.safe_load((ROOT / f".github/workflows/{entry['workflow']}.yml").read_text())
    # YAML takes the key "on" for true.
    assert entry["branch"] in workflow[True]["push"]["branches"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert entry["gh"].endswith(f"/{project['name']}")
    assert project["description"] == f"BIDS-App: {entry['description']}"


def test_every_condition_of_the_contract_is_a_flag_of_the_container_checks():
    text = (ROOT / "tests/container/image.py").read_text(encoding="utf-8")
    for flag in ("--read-only", "--network=none", "--cap-drop=ALL", "--user"):
        assert f'"{flag}' in text, flag
