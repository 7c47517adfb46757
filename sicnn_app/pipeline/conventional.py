"""The conventional fit beside a network's maps: an extra that may be missing, and changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sicnn_app.errors import TryAgainError
from sicnn_app.ivim.maps import Estimate
from sicnn_app.ivim.series import AveragedSignals
from sicnn_app.methods import LEAST_SQUARES, estimator
from sicnn_app.settings import Settings
from sicnn_app.system.memory import remaining_memory


def fit_conventionally(
    averaged: AveragedSignals,
    settings: Settings,
    *,
    device: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Estimate | None, list[str]]:
    """Least squares over the very signals, mask and bounds that a network was given.

    It gets the memory that is left below ``--mem`` when the network is done. No room is planned for it
    beforehand: that could change the batch of the network, and with it the maps.

    Parameters
    ----------
    averaged : AveragedSignals
    settings : Settings
        Where no network is trained nothing is fitted: those maps are the conventional fit, or as good.
    device : str
        ``cpu`` or ``cuda:N``.
    progress : callable (text, done, total), optional

    Returns
    -------
    fit : Estimate or None
        The maps of ``--method lsq``; ``predicted`` is left empty, to keep its memory free.
    warnings : list of str
        Why there is none, when the memory does not suffice.
    """
    if not settings.estimation.described.trains:
        return None, []
    from sicnn_app.system.device import describe_device, is_out_of_memory

    try:
        found = estimator(LEAST_SQUARES).estimate(
            averaged.signals,
            averaged.mask,
            averaged.bvals,
            sigma_per_bval=averaged.sigma_per_bval,
            settings=settings.estimation,
            device=device,
            progress=progress,
            fall_back=settings.resources.device == "auto",
            memory_limit=remaining_memory(settings.resources.mem),
        )
    except (TryAgainError, RuntimeError, MemoryError) as error:
        if not isinstance(error, TryAgainError) and not is_out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, TryAgainError) else "out of memory"
        return None, [f"the maps are not compared with the conventional fit: {reason}"]
    return replace(
        found, device=describe_device(found.device), predicted=np.empty((0,), dtype=np.float32)
    ), []
