"""What is tried where, and what is tried next when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sicnn_app.sicnn.tiles import TILE_SIZE, tile_count

SMALLER_TILES = (32, 16)
"""Voxels; what follows when a batch is down to one tile."""


@dataclass(frozen=True)
class Attempt:
    """One way to train: where, and how much at once; everything else is the same for all."""

    device: str
    batch_size: int
    tile_size: int = TILE_SIZE

    def __str__(self) -> str:
        tiles = "1 tile" if self.batch_size == 1 else f"{self.batch_size} tiles"
        return f"{tiles} of {self.tile_size} x {self.tile_size} voxels at once"


def tiles_of(shape: tuple[int, int, int], tile_size: int) -> int:
    """Tiles of a box of shape (X, Y, slices)."""
    return tile_count(shape[0], tile_size) * tile_count(shape[1], tile_size) * shape[2]


def smaller(attempt: Attempt, shape: tuple[int, int, int]) -> Iterator[Attempt]:
    """Attempts on the same device that take less memory at once, largest first.

    Parameters
    ----------
    attempt : Attempt
    shape : tuple of int
        (X, Y, slices) of the box: what would change nothing for it is left out.
    """
    batch = min(attempt.batch_size, tiles_of(shape, attempt.tile_size))
    while batch > 1:
        batch //= 2
        yield replace(attempt, batch_size=batch)
    seen = tiles_of(shape, attempt.tile_size)
    for size in SMALLER_TILES:
        if size < attempt.tile_size and tiles_of(shape, size) > seen:
            seen = tiles_of(shape, size)
            yield replace(attempt, batch_size=1, tile_size=size)
