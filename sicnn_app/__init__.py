"""SI-CNN as a BIDS-App: F, D and D* maps from intravoxel incoherent motion MRI.

Every package says in its first lines what it is for and which others it may import. Every module may import
``errors``, ``files``, ``formats``, ``methods``, ``settings`` and ``system``. They import one another at most.
"""

__version__ = "0.6.0"
