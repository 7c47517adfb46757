"""Small BIDS datasets for tests of the reading side."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

BVALS = (0.0, 10.0, 50.0, 200.0, 800.0)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def real_dataset(name: str) -> Path:
    """Folder of a real dataset beside the repository; it may be absent."""
    return Path(__file__).resolve().parents[2] / "shared" / "data" / name


class Dataset:
    """A dataset that is written file by file."""

    def __init__(self, root: Path, *, kind: str = "raw") -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.write("dataset_description.json", json.dumps(
            {"Name": "test", "BIDSVersion": "1.11.1", "DatasetType": kind}
        ))  # fmt: skip

    def write(self, relative: str, content: str | bytes = "") -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def image(
        self,
        relative: str,
        *,
        bvals: tuple[float, ...] | None = BVALS,
        data: np.ndarray | None = None,
        affine: np.ndarray = AFFINE,
    ) -> Path:
        """Image below ``sub-*`` named by its path without suffix, and its .bval unless ``bvals`` is None."""
        if data is None:
            volumes = len(bvals or BVALS)
            data = np.arange(1, 3 * 3 * 2 * volumes + 1, dtype=np.int16).reshape(3, 3, 2, volumes)
        path = self.root / f"{relative}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), path)
        if bvals is not None:
            self.write(f"{relative}.bval", " ".join(f"{b:g}" for b in bvals))
        return path
