"""Published IVIM fits beside this app's methods: every one in an environment and a process of its own.

May import ``common``, and ``accuracy`` for its truths and measured halves. Of what is here ``accuracy`` and
``speed`` may import ``environments`` and ``fits``, which import ``common`` only.
"""
