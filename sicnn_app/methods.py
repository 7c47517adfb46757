"""The methods of estimation, and where each is.

May import ``ivim``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sicnn_app.ivim.maps import Estimate

ESTIMATORS = {
    "si-cnn": "sicnn_app.sicnn.estimate",
    "di-cnn": "sicnn_app.sicnn.estimate",
    "cnn": "sicnn_app.sicnn.estimate",
    "lsq": "sicnn_app.lsq.estimate",
}
"""Module of every method, loaded on use; each has ``estimate`` and ``needed_bytes`` with one signature."""


def load_estimator(method: str) -> Callable[..., Estimate]:
    """The ``estimate`` function of a method."""
    return estimator_module(method).estimate


def estimator_module(method: str) -> ModuleType:
    """The module of a method."""
    return importlib.import_module(ESTIMATORS[method])
