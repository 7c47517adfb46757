"""Images that are to be joined to one run: what their sidecars have to agree in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from sicnn_app.errors import DataError
from sicnn_app.ivim.run import SourceImage

ROUNDING = 0.01
"""Share by which numbers that are meant to be one may differ; 0.6 ms of a usual echo time."""

T1_OF_BLOOD = 1.6
"""s, at 3 T."""

MAX_CHANGE_OF_BLOOD = 0.05
"""Share of the signal of blood: a repetition time that changes it by more changes F."""


def _is_rounded(low: float, high: float) -> bool:
    return high - low <= ROUNDING * high


def _saturates_alike(low: float, high: float) -> bool:
    """True for repetition times, s, with hardly another signal of blood, as long ones have."""
    return math.expm1(-low / T1_OF_BLOOD) / math.expm1(-high / T1_OF_BLOOD) >= 1 - MAX_CHANGE_OF_BLOOD


def _is_same(low: str, high: str) -> bool:
    return low == high


AGREEMENT: dict[str, Callable[[Any, Any], bool]] = {
    "EchoTime": _is_rounded,
    "RepetitionTime": _saturates_alike,
    "PhaseEncodingDirection": _is_same,
    **dict.fromkeys(("BigDelta", "SmallDelta", "DiffusionTime", "DiffusionTimeMs"), _is_rounded),
}
"""Keys of sidecars, and whether the lowest and the highest value of the images to be joined are alike."""


def require_one_acquisition(parts: Sequence[SourceImage]) -> None:
    """Refuse to join images whose sidecars contradict each other; what one leaves open does not.

    Raises
    ------
    DataError
        Names the values and an image for each.
    """
    different = []
    for key, is_alike in AGREEMENT.items():
        stated = sorted(
            (value, part.image.name)
            for part in parts
            if (value := _stated(part.metadata.get(key), text=is_alike is _is_same)) is not None
        )
        if stated and not is_alike(stated[0][0], stated[-1][0]):
            (low, one), (high, other) = stated[0], stated[-1]
            different.append(f"{key} {low} in {one}, {high} in {other}")
    if different:
        raise DataError(
            f"images of different acquisitions cannot be combined ({'; '.join(different)}): leave --combine "
            "out, select those that belong together, or correct the sidecar that is wrong"
        )


def _stated(value: Any, *, text: bool) -> float | str | None:
    """A number above 0, or a direction; None for what is none: it is not quoted, see docs/inputs.md."""
    if text:
        return value if isinstance(value, str) and re.fullmatch("[ijk]-?", value) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 < value < math.inf else None
