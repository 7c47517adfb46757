"""Which anatomy a sidecar or the user names."""

from __future__ import annotations

import pytest

from sicnn_app.preprocess.anatomy import choose_anatomy, unknown_part_warning


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
        *(({"BodyPart": word}, "brain") for word in ("SKULL", "Cerebellum", "whole brain", "BRAIN-STEM")),
        *(
            ({"BodyPartExamined": word}, "body")
            for word in (
                "SPINE",
                "CSPINE",
                "C-SPINE",
                "CORD",
                "Spinal cord",
                "LEG",
                "THIGH",
                "CALF",
                "KIDNEY",
                "Kidneys",
                "PROSTATE",
                "PELVIS",
                "LIVER",
                "BREAST",
                "HEART",
                "HEADNECK",
                "HEAD-NECK",
                "Head and neck",
                "HEAD_NECK",
                "HEAD/NECK",
                "NECK",
                "WHOLEBODY",
                "Whole-body",
            )
        ),
        ({}, "body"),
    ],
)
def test_auto_reads_the_sidecar(metadata, anatomy):
    found, source = choose_anatomy("auto", metadata)
    assert found == anatomy
    known = not isinstance(metadata.get("BodyPart"), int)
    assert bool(unknown_part_warning(source)) is not known


def test_a_request_wins_over_the_sidecar_and_is_named():
    assert choose_anatomy("body", {"BodyPart": "BRAIN"}) == ("body", "--anatomy body")


def test_the_source_names_the_field_that_decided():
    assert "BodyPartExamined HEAD" in choose_anatomy("auto", {"BodyPartExamined": "HEAD"})[1]


@pytest.mark.parametrize("word", ["Jane Roe", "BRAINS of Jane", "unknown", "HEAD\x1b", "X"])
def test_a_word_that_is_not_known_is_body_and_said_without_repeating_it(word):
    found, source = choose_anatomy("auto", {"BodyPart": word})
    (said,) = unknown_part_warning(source)
    assert found == "body"
    assert "--anatomy brain" in said
    assert word not in said


def test_who_asks_for_an_anatomy_is_not_warned():
    assert unknown_part_warning(choose_anatomy("brain", {"BodyPart": "Jane Roe"})[1]) == []
