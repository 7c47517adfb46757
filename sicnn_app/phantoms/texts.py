"""The README files of a simulated dataset."""

from __future__ import annotations

from sicnn_app.phantoms.acquire import SNR_DEFINITION
from sicnn_app.phantoms.phantom import S0_SCALE, Phantom


def dataset_readme(
    preset: str, command: str, snr: float, phantom: Phantom, subject_variation: float, texture: float
) -> str:
    """README of the raw dataset.

    Parameters
    ----------
    preset, command : str
    snr : float
    phantom : Phantom
        Any subject of the dataset: gives the voxel size.
    subject_variation, texture : float

    Returns
    -------
    str
        Markdown.
    """
    size = " x ".join(f"{value:.4g}" for value in phantom.voxel_size)
    return f"""# Simulated IVIM diffusion MRI: {preset}

Nobody was scanned: the anatomy is a drawing by formulas, the signals follow
S(b) = S0 (F exp(-b D*) + (1 - F) exp(-b D)), and the noise is Rician. Made by

    {command}

The same command gives the same files with the same versions of the app and of NumPy.

- SNR {snr:g}: {SNR_DEFINITION}.
  The sigma it means for each image is `SimulatedSigma` in its sidecar. Single tissues have more or less:
  their mean S0 is {S0_SCALE:g} times the `s0` in the table of tissues.
- F, D, D* and S0 have a texture of {100 * texture:g} % within a tissue: half of its variance is smooth,
  half is independent from voxel to voxel. The tissues of a subject differ from the literature's by
  {100 * subject_variation:g} % (standard deviation). F stays in 0..1, D in 0..0.005 mm^2/s and D* in
  0.005..0.2 mm^2/s.
- Sessions of one subject show the same body with other noise.
- Diffusion is isotropic: gradient directions differ in their noise only. Relaxation, motion and
  distortion are not simulated; `EchoTime` and `RepetitionTime` are typical values.
- Voxels of {size} mm, first axis towards the patient's left (LAS).

The true maps are the derivatives dataset `derivatives/truth`.
"""


def truth_readme(preset: str) -> str:
    """README of the derivatives dataset with the truth.

    Parameters
    ----------
    preset : str

    Returns
    -------
    str
        Markdown.
    """
    mask = "brain" if preset == "brain" else "body"
    return f"""# True maps of the simulated {preset}

- `*_param-{{f,d,dstar,s0}}_dwimap.nii.gz`: the maps the signals were computed from; NaN where there is
  no tissue. F is a fraction; D and D* (the full second exponent) are in mm^2/s; S0 in image units.
  D* has no meaning where F is close to 0, and D none where F is 1 (vessels): leave those voxels
  out when errors are computed.
- `*_desc-{mask}_mask.nii.gz`: every voxel that holds tissue.
- `*_desc-tissues_dseg.nii.gz`: the tissues; the table beside it has the values of this subject's
  tissues and the source they were varied from. The relative brightness `s0` is chosen, not measured.
"""
