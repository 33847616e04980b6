"""Run a command on this x86 processor as if it had no VNNI, with the real kernels at full speed.

The runtimes ask the processor for its instructions with CPUID. In copies of their libraries every
``cpuid`` becomes a breakpoint, and a small preloaded library (``hide_vnni.c``) answers it with
VNNI removed. /proc/cpuinfo, which the package reads, is replaced inside of the command's own mount
namespace, which needs root. Nothing outside of the copies is changed.

    python -m benchmarks.without_vnni .venv/bin/python -m pytest tests/backends
    python -m benchmarks.without_vnni --avx512 COMMAND      # AVX-512 stays, VNNI alone is hidden

Needs Linux on x86-64, a C compiler, objdump and readelf (``apt-get install gcc binutils``).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torchopt2edge.devices.local import Local

RUNTIMES = ("onnxruntime", "ai_edge_litert")
TOOLS = ("cc", "objdump", "readelf")
_SOURCE = Path(__file__).with_name("hide_vnni.c")
_CPUID, _BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"
_SMALL = 100_000  # bytes; smaller libraries only load a larger one
_NEVER_LOADED = ("WebGpu", "Dispatch", "CompilerPlugin")
_VNNI = re.compile(r"\s(avx512_vnni|avx_vnni\w*|amx_\w+)\b")
_AVX512 = re.compile(r"\savx512\w*")


@dataclass(frozen=True)
class Overlay:
    """Changed copies of the runtimes (``packages``), the preloaded library, a /proc/cpuinfo."""

    packages: Path
    library: Path
    cpuinfo: Path
    avx512: bool

    def environment(self) -> dict[str, str]:
        """Return the environment in which a Python process takes the copies."""
        paths = [str(self.packages), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "LD_PRELOAD": str(self.library),
            "HIDE": "avx512" if self.avx512 else "vnni",
        }

    def command(self, command: Sequence[str]) -> list[str]:
        """Wrap a command so that it reads the changed /proc/cpuinfo; only root can do that."""
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            return list(command)
        script = 'mount --bind "$1" /proc/cpuinfo && shift && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, "sh", str(self.cpuinfo), *command]


def active() -> bool:
    """Tell whether this process runs with its instructions hidden."""
    return bool(os.environ.get("HIDE")) and "hide_vnni" in os.environ.get("LD_PRELOAD", "")


@dataclass(frozen=True)
class HiddenLocal(Local):
    """This machine with its instructions hidden from the measuring children too."""

    def environment(self) -> dict[str, str]:
        """Return a child's environment, with what hides the instructions."""
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LD_PRELOAD", "HIDE")}
        return {**super().environment(), **kept}


def missing() -> list[str]:
    """Name the tools that are needed and not there."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def overlay(folder: Path, *, avx512: bool = True) -> Overlay:
    """Build what hides VNNI, and AVX-512 unless ``avx512`` is False, once per folder.

    Args:
        folder: where the copies are kept; some 100 MB.
        avx512: whether AVX-512 is hidden too, as on a machine with AVX2 alone.
    """
    packages = folder / "packages"
    for name in RUNTIMES:
        spec = find_spec(name)
        assert spec is not None, name
        assert spec.submodule_search_locations, name
        _copy(Path(spec.submodule_search_locations[0]), packages / name)
    library = folder / "hide_vnni.so"
    if not library.is_file():
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", str(_SOURCE), "-o", str(library)], check=True
        )
    text = _VNNI.sub("", Path("/proc/cpuinfo").read_text())
    cpuinfo = folder / ("cpuinfo.avx2" if avx512 else "cpuinfo.avx512")
    cpuinfo.write_text(_AVX512.sub("", text) if avx512 else text)
    return Overlay(packages, library, cpuinfo, avx512)


def _copy(source: Path, target: Path) -> None:
    """Copy a package: its large libraries changed, its other files as links."""
    if target.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=_made(target.parent)) as temporary:
        made = Path(temporary) / target.name
        for file in (file for file in source.rglob("*") if file.is_file()):
            copy = _made((made / file.relative_to(source)).parent) / file.name
            if ".so" not in file.name:
                copy.symlink_to(file)
            elif file.stat().st_size < _SMALL or any(word in file.name for word in _NEVER_LOADED):
                shutil.copy2(file, copy)
            else:
                copy.write_bytes(_changed(file))
        made.rename(target)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _changed(library: Path) -> bytes:
    """Return a library's bytes with a breakpoint in place of every ``cpuid``."""
    data = bytearray(library.read_bytes())
    for offset in _cpuids(library):
        assert data[offset : offset + 2] == _CPUID, library
        data[offset : offset + 2] = _BREAKPOINT
    return bytes(data)


def _cpuids(library: Path) -> Iterator[int]:
    """Yield the file offset of every ``cpuid`` instruction."""
    read = subprocess.run(
        ["readelf", "-lW", str(library)], capture_output=True, text=True, check=True
    )
    loads = [
        tuple(int(value, 16) for value in found)
        for found in re.findall(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", read.stdout)
    ]
    listing = subprocess.Popen(
        ["objdump", "-d", "--no-show-raw-insn", str(library)], stdout=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None
    with listing:
        for line in listing.stdout:
            if line.rstrip().endswith("cpuid"):
                address = int(line.partition(":")[0], 16)
                yield from (
                    address - start + offset
                    for offset, start, size in loads
                    if start <= address < start + size
                )


def cached() -> Path:
    """Return a folder for the copies of these very libraries, made once per boot and version."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    name = hashlib.sha256(f"{spec.origin} {_SOURCE.read_text()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"torchopt2edge-without-vnni-{os.getuid()}-{name}"


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--avx512", action="store_true", help="keep AVX-512, hide VNNI alone")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"{', '.join(lacking)} missing: apt-get install gcc binutils")
    made = overlay(cached(), avx512=not options.avx512)
    return subprocess.run(made.command(options.command), env=made.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
