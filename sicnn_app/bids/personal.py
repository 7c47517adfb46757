"""What a sidecar may not hand on: anything that can point to a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PERSONAL_WORDS = (
    "patient", "birth", "mother", "guardian",
    "physician", "operator", "performer", "reader", "reviewer", "responsible", "author", "observer",
    "address", "telephone", "phone", "email", "contact", "residence",
    "ethnic", "religious", "militaryrank", "occupation", "insurance", "smokingstatus", "pregnancy", "allerg",
    "medicalrecord", "medicalalert", "accession", "admission", "admitting", "visit",
    "requesting", "referring", "scheduled", "performedprocedure", "issuer",
    "subjectname", "subjectid", "surname", "firstname", "lastname", "givenname", "familyname",
    "dateof", "dateand", "datetime", "radiologist", "technologist", "clinician", "surgeon",
    "postcode", "nationality", "citizenship",
    "serialnumber", "filename", "sourcefile",
)  # fmt: skip
"""Words in a key that name a person, an identifier of one, or where and when to find one.

They cover the common ones of the attributes that the Basic Application Level Confidentiality Profile of DICOM
(PS3.15, Annex E) removes, by the words their names share, so that spellings differ freely. Names of
institution, department and station stay: they are fields of BIDS and tell scanners apart.
"""

PERSONAL_ENDINGS = (
    "uid", "uids", "date", "timestamp", "comment", "comments", "notes", "studyid", "studydescription",
    "dob", "mrn", "ssn", "studytime", "seriestime", "contenttime",
)  # fmt: skip
"""Endings of keys of unique numbers (which hold serial numbers and moments), dates and free text."""

KEPT = frozenset(
    {"patientposition", "imagepositionpatient", "imageorientationpatient", "imageorientationpatientdicom"}
)
"""Keys with such a word that tell how the patient lay, and nothing else."""

_TAG = re.compile(r"(0x)?[0-9a-f]{4}(0x)?[0-9a-f]{4}")
"""Key of an attribute by its DICOM number, punctuation left out: what it holds is not judged, so it goes."""


def is_personal(key: str) -> bool:
    """Whether a key of a sidecar may hold something that points to a person.

    Case and punctuation do not matter.

    Examples
    --------
    >>> [is_personal(key) for key in ("PatientName", "birth_date", "(0010,0010)", "SeriesInstanceUID")]
    [True, True, True, True]
    >>> [is_personal(key) for key in ("EchoTime", "PatientPosition", "BodyPart", "SliceTiming")]
    [False, False, False, False]
    """
    plain = re.sub(r"[\W_]+", "", key).lower()
    if plain in KEPT:
        return False
    return (
        any(word in plain for word in PERSONAL_WORDS)
        or plain.endswith(PERSONAL_ENDINGS)
        or _TAG.fullmatch(plain) is not None
    )


def without_personal(content: Any) -> Any:
    """``content`` of a sidecar without the personal keys, in nested objects and lists too."""
    if isinstance(content, Mapping):
        return {key: without_personal(item) for key, item in content.items() if not is_personal(str(key))}
    if isinstance(content, list | tuple):
        return [without_personal(item) for item in content]
    return content
