"""The conventional voxelwise least-squares fit of the bi-exponential, batched over voxels."""
