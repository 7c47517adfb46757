"""Ratings of reviewers: what a file may say, and what is refused in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.derivatives.ratings import RATINGS, REASONS, Rating, rating_name, read_rating
from sicnn_app.errors import SicnnAppError

WRITTEN = {
    "Run": "sub-01_ses-1_acq-T70",
    "Rating": "doubtful",
    "Reasons": ["noise", "motion"],
    "Note": " left lobe ",
    "Reviewer": "AB",
    "Date": "2026-11-30T14:00:00.000Z",
    "GeneratedBy": {"Name": "sicnn-app", "Version": "0.13.0"},
}


@pytest.fixture
def read(tmp_path):
    def written(**changed) -> Rating:
        path = tmp_path / rating_name("sub-01")
        content = {key: value for key, value in {**WRITTEN, **changed}.items() if value is not None}
        path.write_text(json.dumps(content), encoding="utf-8")
        return read_rating(path)

    return written


def test_a_rating_is_read_as_it_was_given(read):
    date = datetime(2026, 11, 30, 14, tzinfo=UTC)
    assert read() == Rating(
        WRITTEN["Run"], "doubtful", ("motion", "noise"), "left lobe", "AB", date, "0.13.0"
    )
    least = read(Reasons=None, Note=None, Reviewer=None, GeneratedBy=None, Date="2026-11-30T14:00:00")
    assert least == Rating(WRITTEN["Run"], "doubtful", (), "", "", date)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Run": "01"}, "names no run"),
        ({"Run": "../sub-01"}, "names no run"),
        ({"Run": None}, "names no run"),
        ({"Rating": "fine"}, "'fine': write good, doubtful, unusable"),
        ({"Rating": ["good"]}, "write good"),
        ({"Reasons": "motion"}, "write a list of any of motion"),
        ({"Reasons": [["motion"]]}, "write a list of any of motion"),
        ({"Reasons": ["moon"]}, "moon"),
        ({"Note": 7}, "Note is no text"),
        ({"Note": "x" * 2001}, "at most 2000"),
        ({"Date": "yesterday"}, "Date is no date"),
        ({"Date": None}, "Date is no date"),
    ],
)
def test_what_is_no_rating_is_refused_in_words(read, changed, words):
    with pytest.raises(SicnnAppError, match=words):
        read(**changed)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([*RATINGS, *REASONS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*WRITTEN, "Other"]), VALUES))
def test_any_file_is_read_or_refused(tmp_path_factory, changed):
    path = tmp_path_factory.mktemp("rating") / "a_desc-rating.json"
    path.write_text(json.dumps({**WRITTEN, **changed}), encoding="utf-8")
    try:
        rating = read_rating(path)
    except SicnnAppError as error:
        assert str(path) in str(error)
    else:
        assert rating.rating in RATINGS and set(rating.reasons) <= set(REASONS) and rating.date.tzinfo
