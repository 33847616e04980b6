"""Print this machine's processor as the package reads it: kernels and records depend on it."""

from __future__ import annotations

from torchopt2edge.quantize import isa
from torchopt2edge.runner import system_info

facts = system_info.machine()
kind = isa.DESCRIPTIONS.get(isa.kind_of(facts) or "", "of an unknown kind")
print(f"Processor: {facts['cpu']}, {kind}, {facts['cores']} cores:", *facts["cpu_flags"])
