"""What the outputs say about the conventional fit: the sidecars of its maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sicnn_app.derivatives.sidecar import DatasetRoots, map_sidecar
from sicnn_app.ivim.parameters import MapSpec
from sicnn_app.ivim.run import RunResult
from sicnn_app.methods import LEAST_SQUARES


def conventional_result(result: RunResult) -> RunResult:
    """The conventional fit of a result as a result of its own, over the same voxels."""
    if result.conventional is None:
        raise ValueError(f"{result.run.name} holds no conventional fit")
    return replace(
        result,
        estimate=result.conventional,
        settings={**result.settings, "method": LEAST_SQUARES},
        conventional=None,
    )


def conventional_sidecar(conventional: RunResult, spec: MapSpec, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of a map of the conventional fit; the result is one of :func:`conventional_result`."""
    own = map_sidecar(conventional, spec, roots)
    return {
        **own,
        "Description": "Conventional least-squares fit of the same signals in the same voxels, to compare "
        f"with: {own['Description']}",
    }
