"""Filter files: whatever JSON they hold is understood, or refused by its key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.bids.associate import ENTITY_ORDER, parse_name
from sicnn_app.bids.select import LONG_NAMES, Selection
from sicnn_app.errors import UsageError
from sicnn_app.settings import SelectionSettings

LABELS = st.text("abzAB019+", min_size=1, max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*ENTITY_ORDER, *LONG_NAMES, "suffix", "extension", "datatype"])


def build(filters: dict) -> Selection:
    return Selection.build(SelectionSettings(bids_filters=filters))


@given(KEYS, ANYTHING)
def test_any_value_is_a_filter_or_refused_by_its_key(key, value):
    try:
        selection = build({"dwi": {key: value}})
    except UsageError as error:
        assert f'"{key}"' in str(error) and "\n" not in str(error)
    else:
        assert len(selection.filters) == 1
        assert "\n" not in selection.describe()


@given(st.dictionaries(KEYS | st.text(max_size=5), ANYTHING, max_size=3))
def test_any_file_is_understood_or_refused(content):
    try:
        selection = build(content)
    except UsageError as error:
        assert "--bids-filter-file" in str(error)
    else:
        assert all(warning.isprintable() for warning in selection.warnings)


@given(st.sampled_from(ENTITY_ORDER[1:]), LABELS, st.booleans(), LABELS)
def test_a_label_chooses_the_images_that_have_it(key, label, prefixed, other):
    selection = build({"dwi": {key: f"{key}-{label}" if prefixed else [label]}})
    for found in (label, other):
        name = parse_name(f"sub-1_{key}-{found}_dwi.nii.gz")
        assert selection.accepts(name) == (found == label)
    assert not selection.accepts(parse_name("sub-1_dwi.nii.gz"))


@pytest.mark.parametrize(
    "name", [*LONG_NAMES, *LONG_NAMES.values(), "run", "suffix", "extension", "datatype"]
)
def test_no_filter_may_stand_outside_of_its_query(name):
    for spelling in (name, name.capitalize()):
        with pytest.raises(UsageError, match=json.dumps(spelling)):
            build({spelling: "x", "dwi": {}})
