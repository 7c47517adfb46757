"""The machine: memory, disks, devices, shared folders, terminals, and what libraries find around them.

Imports nothing of the app but what every module may.
"""
