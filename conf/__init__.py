"""The configuration groups, installed as ``torchopt2edge.conf`` (``pkg://torchopt2edge.conf``)."""
