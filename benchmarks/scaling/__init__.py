"""How time, memory and files grow with images, participants and studies.

May import ``common``.
"""
