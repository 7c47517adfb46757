"""From a DWI series to a mask, one averaged signal per b-value and the noise: arrays in, arrays out.

May import ``ivim``, and what every module may.
"""
