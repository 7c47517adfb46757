"""The figures and tables of the SI-CNN supplement, regenerated on this project's phantom."""
