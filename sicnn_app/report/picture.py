"""A picture of the report with the words around it, and what several kinds of them share."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import count_of, in_words
from sicnn_app.derivatives.names import picture_name
from sicnn_app.report import figures
from sicnn_app.report.display import Display
from sicnn_app.report.quantities import Quantity


@dataclass(frozen=True)
class Picture:
    """A picture file and the words around it.

    ``flicker`` says where the tiles before and after lie, see
    :func:`sicnn_app.report.mosaic.tiles_of_png`; None where there are none.
    """

    file_name: str
    content: bytes
    title: str
    caption: str
    alt: str
    flicker: Mapping[str, float] | None = None

    @property
    def dark(self) -> bool:
        """True for those of voxels, which have a dark ground; charts are white."""
        return self.file_name.endswith(".png")

    @property
    def uri(self) -> str:
        """The file as the address of an image."""
        kind = "png" if self.dark else "svg+xml"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


def volume_of(run: RunDerivatives, inside: np.ndarray) -> np.ndarray:
    """Voxels, shape (X, Y, Z), bool, from those of the mask, shape (M,); outside of it none."""
    volume = np.zeros(run.mask.shape, dtype=bool)
    volume[run.mask] = inside
    return volume


def captioned_map(
    run: RunDerivatives,
    display: Display,
    quantity: Quantity,
    values: np.ndarray,
    shown: np.ndarray,
    *,
    desc: str,
    numbers: str,
    what: str = "",
    beyond: str = "outside",
    remark: str = "",
    spread: np.ndarray | None = None,
) -> Picture:
    """A map in colours with what they mean.

    Parameters
    ----------
    values : ndarray, shape (X, Y, Z), in the unit of the file
    shown : ndarray, shape (X, Y, Z), bool
        Voxels of the mask that get a colour.
    desc : str
        Of the name of the file.
    numbers : str
        What the map comes to, for those who cannot see it.
    what : str
        What they are told that it is; by default symbol and meaning.
    beyond : str
        Where voxels past the colour range lie.
    remark : str
        End of the caption.
    spread : ndarray, shape (X, Y, Z), optional
        Standard deviations by which colours fade.
    """
    inside = values[shown].astype(np.float64)
    low, high = quantity.limits(inside)
    ends = f"{'±' if low == -high else f'{in_words(low)} to'} {quantity.with_unit(high)}"
    origin = "the same in every report"
    if quantity.fixed_range is None:
        origin = "chosen from the data"
    elif run.anatomy:
        origin = f"the same in every {run.anatomy} report"
    outside = quantity.share_outside(inside)
    caption = (
        f"Colour range {ends}, {origin}.",
        f"{percent(outside)} of the voxels lie {beyond} it." if outside else "",
        remark,
    )
    slices = count_of(len(display.slices), "slice")
    return Picture(
        file_name=picture_name(run.name, desc, "png"),
        content=figures.map_picture(run, display, quantity, values, shown, spread),
        title=quantity.name,
        caption=" ".join(filter(None, caption)),
        alt=f"Map of {what or f'{quantity.name},'} on {slices}{numbers}.",
    )


def percent(share: float) -> str:
    """A share in words.

    Examples
    --------
    >>> percent(0.125), percent(0.0001)
    ('12.5 %', 'less than 0.1 %')
    """
    return "less than 0.1 %" if 0 < 100.0 * share < 0.1 else f"{100.0 * share:.1f} %"
