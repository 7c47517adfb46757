"""The works behind the steps of the app."""

from __future__ import annotations

from sicnn_app.methods import HUANG, SUPPLEMENT
from sicnn_app.steps import FADNAVIS, KELLNER, VERAART

REFERENCES: dict[str, str] = {
    "supplement": SUPPLEMENT,
    "huang": HUANG,
    "lebihan": (
        "Le Bihan D, Breton E, Lallemand D, Aubin ML, Vignaud J, Laval-Jeantet M. Separation of diffusion "
        "and perfusion in intravoxel incoherent motion MR imaging. Radiology 1988;168(2):497-505. "
        "https://doi.org/10.1148/radiology.168.2.3393671"
    ),
    "gudbjartsson": (
        "Gudbjartsson H, Patz S. The Rician distribution of noisy MRI data. Magnetic Resonance in Medicine "
        "1995;34(6):910-914. https://doi.org/10.1002/mrm.1910340618"
    ),
    "dempster": (
        "Dempster AP, Laird NM, Rubin DB. Maximum likelihood from incomplete data via the EM algorithm. "
        "Journal of the Royal Statistical Society B 1977;39(1):1-38. "
        "https://doi.org/10.1111/j.2517-6161.1977.tb01600.x"
    ),
    "veraart": VERAART,
    "fadnavis": FADNAVIS,
    "kellner": KELLNER,
    "bids": (
        "Gorgolewski KJ, Auer T, Calhoun VD, et al. The brain imaging data structure, a format for "
        "organizing and describing outputs of neuroimaging experiments. Scientific Data 2016;3:160044. "
        "https://doi.org/10.1038/sdata.2016.44"
    ),
    "pybids": (
        "Yarkoni T, Markiewicz CJ, de la Vega A, et al. PyBIDS: Python tools for BIDS datasets. Journal of "
        "Open Source Software 2019;4(40):1294. https://doi.org/10.21105/joss.01294"
    ),
    "dipy": (
        "Garyfallidis E, Brett M, Amirbekian B, et al. Dipy, a library for the analysis of diffusion MRI "
        "data. Frontiers in Neuroinformatics 2014;8:8. https://doi.org/10.3389/fninf.2014.00008"
    ),
    "nibabel": (
        "Brett M, Markiewicz CJ, Hanke M, et al. NiBabel: access a cacophony of neuro-imaging file "
        "formats. Zenodo. https://doi.org/10.5281/zenodo.591597"
    ),
    "torch": (
        "Paszke A, Gross S, Massa F, et al. PyTorch: an imperative style, high-performance deep learning "
        "library. Advances in Neural Information Processing Systems 2019;32:8024-8035."
    ),
}
"""Every reference the texts can cite, in the order in which they are listed."""
