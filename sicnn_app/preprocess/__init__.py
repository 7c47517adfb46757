"""From a DWI series to a mask, one averaged signal per b-value and the noise: arrays in, arrays out."""
