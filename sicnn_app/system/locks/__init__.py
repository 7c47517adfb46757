"""Which process works where: folders in the work directory that belong to one process at a time."""
