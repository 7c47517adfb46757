"""Truths that choices are made on and held against, by name."""

from __future__ import annotations

from sicnn_app.phantoms.disturbances import UNDISTURBED, Disturbances
from sicnn_app.phantoms.truths import Truth

SPOILT = Disturbances(pulsation=0.05, losses=0.2, g_factor=2.0)

TRUTHS: dict[str, tuple[str, Truth, Disturbances]] = {
    "organs": ("abdomen", Truth(), UNDISTURBED),
    "other organs": ("abdomen", Truth(values="drawn", deformation=1.0), UNDISTURBED),
    "random organs": ("abdomen", Truth(anatomy="random"), UNDISTURBED),
    "continuous, 3 voxels": ("abdomen", Truth(anatomy="fields", correlation_length=3), UNDISTURBED),
    "continuous, 10 voxels": ("abdomen", Truth(anatomy="fields", correlation_length=10), UNDISTURBED),
    "partial volume": ("abdomen", Truth(anatomy="random", partial_volume=3), UNDISTURBED),
    "equal S0, shading": ("abdomen", Truth(anatomy="random", equal_s0=True, shading=0.4), UNDISTURBED),
    "low perfusion": ("abdomen", Truth(values="low-perfusion", deformation=1.0), UNDISTURBED),
    "lesions": ("abdomen", Truth(values="drawn", deformation=1.0, lesions=40), UNDISTURBED),
    "spoilt": ("abdomen", Truth(anatomy="random"), SPOILT),
    "brain": ("brain", Truth(values="contrasts", deformation=0.5), UNDISTURBED),
    "brain, partial volume": (
        "brain",
        Truth(values="contrasts", deformation=0.5, partial_volume=3),
        UNDISTURBED,
    ),
}
"""Name to preset, truth and disturbances."""
