"""The IVIM model, the DWI series and the maps: data and physics without files."""
