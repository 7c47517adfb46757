"""SI-CNN, reconstructed from the paper's supplement: network, training and data iterations.

May import ``ivim``, and what every module may.
"""
