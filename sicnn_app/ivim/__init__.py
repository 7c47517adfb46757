"""The IVIM model, the DWI series and the maps: data and physics without files.

Imports nothing of the app but what every module may.
"""
