"""How much memory and disk a run needs, and what to do where it has less.

Where ``--mem`` leaves no room for a whole series, the series lies in an unnamed file of the work directory
and is used volume by volume. Code that reads ``signals[..., volume]`` and makes its results with
:func:`empty_series` need not know which of the two it has.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.system.helpers import HELPER_BYTES

GB = 1e9
"""Bytes; the unit of ``--mem`` and of every figure shown."""

RELEASE_BYTES = 32 << 20
"""A series on disk keeps about this much of itself in memory."""

TOUCH_BYTES = 1 << 19
"""Cost of a look at a single voxel of a file: the system reads ahead; measured on Linux 6.18."""

LATER_BYTES = 200_000_000
"""Libraries loaded after the plan is made, the report and its figures."""

VOLUME_COPIES = 24
"""float32 volumes in use at once besides the series: the filters of the mask and the maps work in float64."""

BVALUE_COPIES = 8
"""float32 volumes per b-value: the averaged signals, their float64 sums, what flags and sidecars copy, and
the averages before denoising with their noise."""

DENOISE_COPIES = {"mppca": 13, "patch2self": 19}
"""float32 copies of the volumes denoised together: dipy works on whole 4-D arrays of float64. Measured."""

DENOISE_GROUP = 64
"""Most volumes denoised together, :data:`sicnn_app.preprocess.denoise.MAX_GROUP`."""

CORRECTION_SHARE = 0.25
"""Share of the series used at once by motion correction: the volumes at the lowest b-values."""


def _status(key: str) -> int | None:
    """A figure of ``/proc/self/status`` in bytes; None where the system has no such file."""
    with suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def forget_peak() -> None:
    """Let :func:`peak_memory` count from now on, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Highest resident memory of this process since :func:`forget_peak`, GB (10^9 bytes)."""
    # Linux hands ru_maxrss on from the process that started this one; VmHWM is this program's own.
    peak = _status("VmHWM")
    if peak is None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak / GB


def resident_memory() -> int:
    """Resident memory of this process now, bytes; where the system does not tell, the highest so far."""
    resident = _status("VmRSS")
    return round(peak_memory() * GB) if resident is None else resident


class DiskArray(np.ndarray):
    """A float32 array, shape (X, Y, Z, N), whose values lie in a file without a name.

    Taking or setting ``[..., volume]`` gives up the pages used before, once they are many, so that
    resident memory stays near :data:`RELEASE_BYTES`. Taking several volumes, or a box of all, gives another
    array on disk: of the same file for slices, ``[..., :5]`` and ``[:, :, :5]``, a copy for an array of
    indices or booleans, ``[..., keep]``. Anything else behaves, and costs memory, as in an array.

    The file has no name, so nothing is left of it after the process, however that ends.
    """

    _mapping: mmap.mmap | None = None
    _folder: Path | None = None
    _used = 0

    @classmethod
    def create(cls, shape: tuple[int, int, int, int], folder: Path) -> DiskArray:
        """Zeros on the file system of ``folder``, volumes contiguous; raises OutputError when it is full."""
        # A file, and a mapping, has one byte or more.
        size = max(int(np.prod(shape, dtype=object)) * np.dtype(np.float32).itemsize, 1)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                # Space is taken now: a full disk met through the mapping would end the process.
                os.posix_fallocate(file.fileno(), 0, size)
                mapping = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise OutputError(
                f"{folder}: {size / GB:.3g} GB for a series on disk cannot be had there ({error.strerror}): "
                "free space, name another --work-dir or allow more --mem"
            ) from error
        array = np.ndarray.__new__(cls, shape, np.float32, buffer=mapping, order="F")
        array._mapping, array._folder = mapping, Path(folder)
        return array

    def release(self) -> None:
        """Give up the memory of all pages; the values stay in the file."""
        self._used = 0
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _use(self, size: int) -> None:
        if self._used + size > RELEASE_BYTES:
            self.release()
        self._used += max(size, TOUCH_BYTES)

    def __getitem__(self, index):
        if self._mapping is None:
            return super().__getitem__(index)
        if isinstance(index, tuple) and (index[0] is Ellipsis or len(index) == 3):
            if all(part is Ellipsis or isinstance(part, slice) for part in index):
                view = super().__getitem__(index)
                view._mapping, view._folder = self._mapping, self._folder
                return view
            if len(index) == 2 and np.ndim(index[1]) == 1:
                return self._take(np.arange(self.shape[-1])[index[1]])
        view = np.asarray(self)[index]
        self._use(view.nbytes)
        return view

    def __setitem__(self, index, values):
        if self._mapping is not None:
            parts = index if isinstance(index, tuple) else (index,)
            # What gathers voxels would take a copy, and not a view.
            gathers = any(np.ndim(part) > 0 for part in parts)
            self._use(self.itemsize * (np.size(values) if gathers else np.asarray(self)[index].size))
        super().__setitem__(index, values)

    def _take(self, volumes: np.ndarray) -> DiskArray:
        taken = DiskArray.create((*self.shape[:-1], volumes.size), self._folder)
        for position, volume in enumerate(volumes):
            taken[..., position] = self[..., volume]
        return taken


def empty_series(
    shape: tuple[int, int, int, int], *, like: np.ndarray | None = None, folder: Path | None = None
) -> np.ndarray:
    """A float32 series of shape (X, Y, Z, N) to be filled volume by volume, volumes contiguous.

    It lies where ``like`` lies, in memory or on disk, or in a file on the file system of ``folder``. Raises
    OutputError when the disk has no room.
    """
    if isinstance(like, DiskArray):
        folder = like._folder
    return np.empty(shape, dtype=np.float32, order="F") if folder is None else DiskArray.create(shape, folder)


def release(values: np.ndarray) -> None:
    """Give up the memory of an array on disk; nothing happens to any other."""
    if isinstance(values, DiskArray):
        values.release()


@dataclass(frozen=True)
class MemoryPlan:
    """How a run is kept below ``--mem``: where its series lies.

    The run is expected to reach ``needed`` bytes of resident memory, and to take ``disk`` bytes of the work
    directory; so many ``helpers`` have room beside it.
    """

    on_disk: bool
    needed: int
    disk: int
    helpers: int = 0


def plan_memory(
    shape: tuple[int, int, int, int],
    *,
    bvals: int,
    limit: float | None,
    limit_from: str = "--mem",
    resident: int,
    estimation: int = 0,
    denoise: str = "none",
    corrections: int = 0,
    helpers: int = 0,
) -> MemoryPlan:
    """Decide where the series lies; raises TryAgainError when the limit is too low for either place.

    The series lies in memory when everything fits beside it, on disk otherwise, which changes no map.
    Denoising holds groups of volumes in memory in either case, and is never left out for want of it:
    the maps of a subject would depend on what the process had held before. An estimator that needs too
    much has to see to that itself, see :func:`remaining_memory`.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, Z, N) of the series.
    bvals : int
        Nominal b-values.
    limit : float or None
        ``--mem`` or what the system allows, GB; None: no limit.
    limit_from : str
        Which of these it is, for the message.
    resident : int
        Bytes the process holds now, see :func:`resident_memory`.
    estimation : int
        Bytes the estimator would take if it could.
    denoise : str
        ``none``, or the method by which the series will be denoised.
    corrections : int
        Other steps that make a new series: unringing, motion correction.
    helpers : int
        Processes that would denoise beside this one: all of them or none.
    """
    volume = int(np.prod(shape[:3], dtype=object)) * 4
    series = volume * shape[3]
    base = resident + LATER_BYTES + volume * (VOLUME_COPIES + BVALUE_COPIES * bvals)
    # The series as loaded, without the volumes left out, and as every step makes it.
    kept = series * (2 + corrections + (denoise != "none"))
    denoising = volume * min(shape[3], DENOISE_GROUP) * DENOISE_COPIES.get(denoise, 0)
    allowed = float("inf") if limit is None else limit * GB

    needed = base + kept + max(denoising, estimation)
    handed_over = 2 * volume * min(shape[3], DENOISE_GROUP)
    helped = base + kept + max(denoising + handed_over + helpers * HELPER_BYTES, estimation)
    if helpers and denoise == "mppca" and helped <= allowed:
        return MemoryPlan(False, helped, 0, helpers)
    if needed <= allowed:
        return MemoryPlan(False, needed, 0)
    base += min(2 * RELEASE_BYTES, kept) + round(series * CORRECTION_SHARE * (corrections > 0))
    if base + denoising <= allowed:
        return MemoryPlan(True, base + denoising, kept)
    raise TryAgainError(
        f"about {(base + denoising) / GB:.3g} GB of memory are needed, {(resident + LATER_BYTES) / GB:.2g} "
        f"of them by the program itself, and {limit_from} allows {limit:.3g}: allow more"
        + (", or use --denoise none" if base <= allowed else "")
    )


def remaining_memory(limit: float | None) -> int | None:
    """Bytes that this process may still take below ``--mem`` (GB); None without a limit."""
    return None if limit is None else max(0, round(limit * GB) - resident_memory())


def require_space(needs: Iterable[tuple[Path, int]]) -> None:
    """Refuse to begin what the disk cannot hold; raises OutputError.

    File systems that do not tell their free space, and quotas, are only met in writing. ``needs`` are
    folders, which need not exist yet, and the bytes to be written there.
    """
    wanted: dict[int, tuple[Path, Path, int]] = {}
    for folder, size in needs:
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
        with suppress(OSError):
            device = place.stat().st_dev
            first, _, before = wanted.get(device, (folder, place, 0))
            wanted[device] = (first, place, before + size)
    for folder, place, size in wanted.values():
        with suppress(OSError):
            free = shutil.disk_usage(place).free
            if free < size:
                raise OutputError(
                    f"{folder}: about {size / GB:.3g} GB will be written and {free / GB:.3g} GB are free: "
                    "free space or name another folder"
                )
