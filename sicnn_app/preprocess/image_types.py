"""``ImageType`` of sidecars: words for what is no measured magnitude, and for averages among others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sicnn_app.formats import printable, shorten
from sicnn_app.ivim.bvalues import SAME_BVAL, group_bvalues
from sicnn_app.preprocess.contradictions import Contradiction
from sicnn_app.preprocess.volumes import ranges

COMPUTED = {
    "ADC": "an ADC map",
    "EADC": "an exponential ADC map",
    "EXP": "an exponential ADC map",
    "FA": "a map of fractional anisotropy",
    "COLFA": "a map of fractional anisotropy",
    "TENSOR": "a diffusion tensor",
    "CALC": "images computed for b-values that were not measured",
}
"""Words for what a scanner computes from measured images. DERIVED, RESAMPLED, AVERAGE, NORM, MOCO are none:
what they tell of may have been done to any series."""

OTHER_PARTS = {
    "P": "phase",
    "PHASE": "phase",
    "R": "real part",
    "REAL": "real part",
    "I": "imaginary part",
    "IMAGINARY": "imaginary part",
}
"""Words for parts of a complex image besides the magnitude."""

TRACE = ("TRACEW", "TRACE")
"""Words for averages over directions, which are signals as good as others."""

MOST_LETTERS = 120
"""Of an ``ImageType`` that a message quotes."""


def contradictions_of_types(
    images: Sequence[tuple[str, Any]],
    image_of_volume: np.ndarray,
    bvals: np.ndarray,
    source_volumes: np.ndarray,
) -> list[Contradiction]:
    """Hold what sidecars say of their images against a series of measured magnitudes.

    Parameters
    ----------
    images : sequence of (str, any)
        File name and ``ImageType`` of every source image, whatever the sidecar holds there.
    image_of_volume : ndarray, shape (N,), int
        Which of them a volume comes from.
    bvals : ndarray, shape (N,), s/mm^2
    source_volumes : ndarray, shape (N,), int
    """
    found = []
    words = [set(_words(stated)) for _, stated in images]
    for position, (name, stated) in enumerate(images):
        volumes = tuple(source_volumes[image_of_volume == position].tolist())
        quoted = shorten(printable(", ".join(_texts(stated))), MOST_LETTERS)
        computed = [COMPUTED[word] for word in COMPUTED if word in words[position]]
        if "B0" in words[position]:
            # TENSOR_B0 is the image without weighting beside a tensor.
            computed = [what for what in computed if what != COMPUTED["TENSOR"]]
        parts = dict.fromkeys(OTHER_PARTS[word] for word in OTHER_PARTS if word in words[position])
        if computed:
            what = f"ImageType of {name} ({quoted}) says that it is, or holds, {computed[0]}"
            remedy = "give the series that was measured, without maps; if it is that, correct ImageType"
        elif parts:
            what = f"ImageType of {name} ({quoted}) says {' and '.join(parts)}, not magnitudes alone"
            remedy = "give the magnitude images (part-mag); if these are, correct ImageType"
        else:
            continue
        found.append(Contradiction(volumes, what, remedy))
    return [*found, *_averages_among_directions(images, words, image_of_volume, bvals, source_volumes)]


def _averages_among_directions(
    images: Sequence[tuple[str, Any]],
    words: Sequence[set[str]],
    image_of_volume: np.ndarray,
    bvals: np.ndarray,
    source_volumes: np.ndarray,
) -> Iterator[Contradiction]:
    """Trace-weighted images that share a b-value above 0 with images that are none."""
    trace = np.array([not one.isdisjoint(TRACE) for one in words])[image_of_volume]
    # Of an image without ImageType nothing is known.
    stated = np.array([bool(one) for one in words])[image_of_volume]
    nominal, index = group_bvalues(bvals)
    shared = [
        b
        for b in np.flatnonzero(nominal > SAME_BVAL)
        if (trace & (index == b)).any() and (stated & ~trace & (index == b)).any()
    ]
    if shared:
        mixed = np.isin(index, shared)
        names = ", ".join(name for (name, _), one in zip(images, words, strict=True) if one & set(TRACE))
        yield Contradiction(
            tuple(source_volumes[mixed].tolist()),
            f"volumes {ranges(source_volumes[mixed & trace])} ({names}) are averages over directions by "
            "their ImageType (TRACEW), and others of their b-values single directions, which count as much",
            "combine images of one kind, or leave the averages out with --ignore-volumes",
        )


def _texts(stated: Any) -> list[str]:
    values = stated if isinstance(stated, list | tuple) else [stated]
    return [value for value in values if isinstance(value, str)]


def _words(stated: Any) -> Iterator[str]:
    """Words of an ``ImageType`` in capitals: lists, or what DICOM parts by backslashes."""
    for text in _texts(stated):
        yield from re.findall(r"[A-Z0-9]+", text.upper())
