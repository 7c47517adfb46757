"""Which anatomy a sidecar or the user names."""

from __future__ import annotations

import pytest

from sicnn_app.preprocess.anatomy import choose_anatomy


@pytest.mark.parametrize(
    ("metadata", "anatomy"),
    [
        ({"BodyPart": "BRAIN"}, "brain"),
        ({"BodyPart": " brain "}, "brain"),
        ({"BodyPartExamined": "HEAD"}, "brain"),
        ({"BodyPart": "SPINE", "BodyPartExamined": "HEAD"}, "body"),
        ({"BodyPart": "", "BodyPartExamined": "HEAD"}, "brain"),
        ({"BodyPart": None}, "body"),
        ({"BodyPart": "ABDOMEN"}, "body"),
        ({"BodyPart": 3}, "body"),
        ({}, "body"),
    ],
)
def test_auto_reads_the_sidecar(metadata, anatomy):
    assert choose_anatomy("auto", metadata)[0] == anatomy


def test_a_request_wins_over_the_sidecar_and_is_named():
    assert choose_anatomy("body", {"BodyPart": "BRAIN"}) == ("body", "--anatomy body")


def test_the_source_names_the_field_that_decided():
    assert "BodyPartExamined HEAD" in choose_anatomy("auto", {"BodyPartExamined": "HEAD"})[1]
