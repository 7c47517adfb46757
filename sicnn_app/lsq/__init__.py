"""The conventional voxelwise least-squares fit of the bi-exponential, batched over voxels.

May import ``ivim``, and what every module may.
"""
