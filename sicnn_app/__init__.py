"""SI-CNN as a BIDS-App: F, D and D* maps from intravoxel incoherent motion MRI.

Every package says in its first lines what it is for and which others it may import. Every module may import
``errors``, ``files``, ``formats``, ``methods``, ``options``, ``settings``, ``steps`` and ``system``. They
import one another at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sicnn_app.api import IvimMaps, Simulation, estimate, simulate
    from sicnn_app.settings import EstimationSettings

__version__ = "0.13.0"

__all__ = ["EstimationSettings", "IvimMaps", "Simulation", "__version__", "estimate", "simulate"]

_HOMES = {"EstimationSettings": "sicnn_app.settings"} | dict.fromkeys(
    ("IvimMaps", "Simulation", "estimate", "simulate"), "sicnn_app.api"
)
"""Module of every public name, imported on use: torch takes seconds, and --help needs none of it."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
