"""README and docs: links lead somewhere, and stated defaults are the ones in force."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sicnn_app.settings import EstimationSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "requirements" / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_register_of_assumptions_states_the_default_thresholds():
    text = (ROOT / "docs" / "assumptions.md").read_text(encoding="utf-8")
    settings = EstimationSettings()
    fitting, neighbour = settings.fitting_threshold, settings.resolved_neighbour_threshold
    assert f"{fitting.value:g} and {neighbour.value:g} {neighbour.unit}" in text
