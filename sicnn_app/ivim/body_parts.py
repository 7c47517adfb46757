"""Names of body parts, to tell them from any other text in their place."""

from __future__ import annotations

ANATOMIES = ("brain", "body")
"""Kinds that data are treated as."""

BODY_PART_KEYS = ("BodyPart", "BodyPartExamined")
"""Sidecar fields that name the scanned part: the one of BIDS first, then the one of DICOM."""

BODY_PARTS = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "ARM", "AXILLA", "BACK", "BLADDER", "BODY", "BRAIN",
    "BREAST", "BUTTOCK", "CALF", "CEREBELLUM", "CERVIX", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "COLON",
    "CSPINE", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM",
    "GALLBLADDER", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "IAC", "INTESTINE", "JAW", "KIDNEY",
    "KNEE", "LARYNX", "LEG", "LIVER", "LSPINE", "LUNG", "MUSCLE", "NECK", "ORBIT", "OVARY", "PANCREAS",
    "PELVIS", "PHANTOM", "PHARYNX", "PITUITARY", "PLACENTA", "PROSTATE", "RECTUM", "SACRUM", "SCROTUM",
    "SHOULDER", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "TESTIS", "THIGH", "THORAX",
    "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRUNK", "TSPINE", "UPPERABDOMEN", "UTERUS", "WHOLEBODY",
    "WRIST",
))  # fmt: skip
"""As DICOM writes them, spaces left out."""


def is_body_part(name: str) -> bool:
    """True when a text is the name of a body part, in whatever letters.

    Examples
    --------
    >>> is_body_part("Upper Abdomen"), is_body_part("Jane Roe")
    (True, False)
    """
    return "".join(name.split()).upper() in BODY_PARTS
