"""How right the maps are: on phantoms whose truth is known, beside published fits, and on measured data.

May import ``common``, and ``environments`` and ``fits`` of ``peers``.
"""
