"""What the output dataset says about itself: the meaning of its labels and its README."""

from __future__ import annotations

from sicnn_app.derivatives.provenance import APP_NAME
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import all_maps

DESCRIPTIONS: dict[str, str] = {
    "preproc": "Diffusion-weighted series after preprocessing, before averaging over repeats and directions",
    "body": "Mask of the body inside which the maps hold numbers",
    "brain": "Mask of the brain inside which the maps hold numbers",
    "ivim": "Quality measures of one run",
    "ivimflags": "First reason why a voxel is not to be trusted",
    "training": "History of the estimation, one row per data iteration",
    "lsq": "Map of the conventional least-squares fit of the same signals, to compare with",
    "std": "Standard deviation of a map over an ensemble of networks",
}
"""Every ``desc`` label the app gives and what it means."""

GIVEN_MASK = "Mask of this label from another dataset, inside which the maps hold numbers"
"""The same of masks that were given with a label of their own."""


def readme_text() -> str:
    """``README.md`` of the output dataset."""
    maps = "\n".join(f"| `param-{spec.label}` | {spec.unit} | {spec.description} |" for spec in all_maps())
    flags = "\n".join(f"| {spec.code} | {spec.name} | {spec.description} |" for spec in FLAGS)
    labels = "\n".join(f"| `desc-{label}` | {meaning} |" for label, meaning in DESCRIPTIONS.items())
    return f"""# IVIM parameter maps by {APP_NAME}

Derivatives of diffusion-weighted MRI: maps of the intravoxel incoherent motion (IVIM) model
S(b) = S0 (F exp(-b D*) + (1 - F) exp(-b D)), in the space of the source images.
How the maps were made and what to cite stands in `CITATION.md`; the settings of a run stand in
its `*_desc-ivim_qc.json`.

## Maps: `*_model-ivim_param-<label>_dwimap.nii.gz`

NaN outside the mask, finite inside. `arbitrary` means no physical unit.

| file label | unit | meaning |
|---|---|---|
{maps}

## Flags: `*_desc-ivimflags_dseg.nii.gz`

The first of these reasons that holds in a voxel; 0 where none does.

| code | name | meaning |
|---|---|---|
{flags}

## Other labels

| label | meaning |
|---|---|
{labels}

A mask from another dataset keeps its label.

## All runs together

After the level `group` there are also:

| file | content |
|---|---|
| `group_ivim.tsv` | one row per run and region: statistics of the maps, quality, outliers |
| `group_repeatability.tsv` | test-retest statistics of repeated measurements |
| `group.html` | both to look at, with links to the reports of the runs |

The columns are described in the `.json` files of the same names.

## Figures: `sub-<label>/figures`

The pictures of the reports. `*_desc-statistics_dwi.tsv` and `*_desc-signals_dwi.tsv` hold the numbers of
their tables of maps and signals, `*_desc-clusters_dwi.tsv` and `*_desc-clusterdecay_dwi.tsv` those of the
tissue clusters; the `.json` beside each describes its columns.

## The record: `.sicnn-app`

Every file that {APP_NAME} wrote, with its size and SHA-256. It replaces and removes these alone, and
only as long as they are as it wrote them; keep the folder when you copy this dataset.

## Reading the maps with pybids

The `param` entity is not part of a released standard yet; the package brings the configuration
that pybids needs for it:

```python
from bids.layout import BIDSLayout
from sicnn_app.derivatives.dataset import pybids_config_path

layout = BIDSLayout(".", validate=False, config=["bids", "derivatives", str(pybids_config_path())])
layout.get(model="ivim", param="f", desc=None, suffix="dwimap", extension=".nii.gz")
```

`desc=None` leaves out the other maps of the same parameter, which have a `desc` label.
"""
