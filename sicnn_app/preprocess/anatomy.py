"""Brain or body: which kind of mask the data need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sicnn_app.ivim.body_parts import BODY_PART_KEYS, BRAIN_PARTS, is_body_part, plain_name

UNKNOWN_PART = "of the sidecar, which names no part that is known"


def choose_anatomy(requested: str, metadata: Mapping[str, Any]) -> tuple[str, str]:
    """``brain`` or ``body``, and what decided it: the value of ``--anatomy`` or the merged sidecars of a run.

    Examples
    --------
    >>> choose_anatomy("auto", {"BodyPartExamined": "HEAD"})
    ('brain', 'BodyPartExamined HEAD of the sidecar')
    >>> choose_anatomy("auto", {})
    ('body', 'the sidecar names no body part')
    """
    if requested != "auto":
        return requested, f"--anatomy {requested}"
    for key in BODY_PART_KEYS:
        name = str(metadata.get(key) or "").strip()
        if name:
            anatomy = "brain" if plain_name(name) in BRAIN_PARTS else "body"
            # Quoted only where it names a body part: it may be anything, also the name of a person.
            return anatomy, f"{key} {name} of the sidecar" if is_body_part(name) else f"{key} {UNKNOWN_PART}"
    return "body", "the sidecar names no body part"


def unknown_part_warning(anatomy_source: str) -> list[str]:
    """What is said where what decided on the anatomy (:func:`choose_anatomy`) was not understood."""
    if not anatomy_source.endswith(UNKNOWN_PART):
        return []
    return [f"treated as body by {anatomy_source}: give --anatomy brain if it is a brain"]
