"""Machines that candidates run on; importing this imports no runtime."""

from __future__ import annotations

from torchopt2edge.devices.local import Local

__all__ = ["Local"]
