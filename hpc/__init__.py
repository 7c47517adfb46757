"""What clusters need to run the app: scripts for Slurm, descriptions for BABS and Boutiques."""
