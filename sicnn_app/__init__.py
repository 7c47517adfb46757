"""SI-CNN as a BIDS-App: F, D and D* maps from intravoxel incoherent motion MRI."""

__version__ = "0.6.0"
