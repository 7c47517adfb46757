"""Names of body parts, to tell them from any other text in their place."""

from __future__ import annotations

import re

ANATOMIES = ("brain", "body")
"""Kinds that data are treated as."""

BODY_PART_KEYS = ("BodyPart", "BodyPartExamined")
"""Sidecar fields that name the scanned part: the one of BIDS first, then the one of DICOM."""

BRAIN_PARTS = frozenset(("BRAIN", "BRAINSTEM", "CEREBELLUM", "CEREBRUM", "HEAD", "SKULL", "WHOLEBRAIN"))
"""Parts whose images show a head, as far as scanners say: many call brains by its skull."""

BODY_PARTS = BRAIN_PARTS | frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "ARM", "AXILLA", "BACK", "BLADDER", "BODY", "BRAIN",
    "BREAST", "BUTTOCK", "CALF", "CEREBELLUM", "CERVIX", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "COLON",
    "CSPINE", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM",
    "GALLBLADDER", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "IAC", "INTESTINE", "JAW", "KIDNEY",
    "KNEE", "LARYNX", "LEG", "LIVER", "LSPINE", "LUNG", "MUSCLE", "NECK", "ORBIT", "OVARY", "PANCREAS",
    "PELVIS", "PHANTOM", "PHARYNX", "PITUITARY", "PLACENTA", "PROSTATE", "RECTUM", "SACRUM", "SCROTUM",
    "SHOULDER", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "TESTIS", "THIGH", "THORAX",
    "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRUNK", "TSPINE", "UPPERABDOMEN", "UTERUS", "WHOLEBODY",
    "WRIST", "AORTA", "BLOODVESSEL", "BONE", "BOWEL", "CERVICALSPINE", "CERVICALCORD", "CORD", "ENTIREBODY",
    "HEADANDNECK", "HEPATOBILIARY", "KIDNEYS", "LEGS", "LOWERLEG", "LOWEREXTREMITY", "LOWERLIMB",
    "LUMBARSPINE", "LUNGS", "LYMPHNODE", "MEDIASTINUM", "NASOPHARYNX", "OROPHARYNX", "PAROTID",
    "SALIVARYGLAND", "SPINALCORD", "THIGHS", "THORACICSPINE", "UPPEREXTREMITY", "UPPERLEG", "UPPERLIMB",
    "WHOLESPINE",
))  # fmt: skip
"""As DICOM and people write them, without what parts their words."""


def is_body_part(name: str) -> bool:
    """True when a text is the name of a body part, in whatever letters.

    Examples
    --------
    >>> is_body_part("Upper Abdomen"), is_body_part("Jane Roe")
    (True, False)
    """
    return plain_name(name) in BODY_PARTS


def plain_name(name: str) -> str:
    """Text in capitals, without what parts words, as :data:`BODY_PARTS` has it.

    Examples
    --------
    >>> plain_name("Head-Neck"), plain_name("C_SPINE")
    ('HEADNECK', 'CSPINE')
    """
    return re.sub(r"[ _/.&+-]", "", name).upper()
