"""What a board or a phone answers, checked: the one place where its words become values.

A device is somebody else's machine, and so is what sits between it and us. Of what it prints a name
is one of a list that is written here, and never a path of this machine; a number is of ASCII
digits, and has bounds; a list has a length; a text is printable, and short. What goes beyond that
is an `AnswerError`, and a line that is damaged is left out, so that what it would tell is unknown.
How much is read at all says `output`; what a runner says in frames is checked by `bench.answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torchopt2edge.errors import DeviceError

MOST_CORES = 8192
"""The cores that a Linux may have."""

_LONGEST_PATH = 4096
_LONGEST_LINE = 4096
_LARGEST = 10**15
_MOST_FILES, _MOST_LINES = 4 * MOST_CORES, 100_000
_TEXT = re.compile(r".*")
_WORD = re.compile(r"[\w.,+-]{1,64}", re.ASCII)
_DIGITS = re.compile(r"\d{1,15}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CPU = r"sys/devices/system/cpu"
# What `remote.facts` asks for: name → how a line of it looks. There is no other name.
_FILES: Mapping[str, re.Pattern[str]] = {
    r"proc/cpuinfo": _TEXT,
    r"proc/meminfo": re.compile(r"[\w()]{1,64}: +\d{1,15}( kB)?", re.ASCII),
    r"proc/loadavg": re.compile(r"\d{1,7}\.\d{1,4}( .*)?", re.ASCII),
    r"proc/stat": re.compile(r"cpu\d{0,4}( +\d{1,18}){4,12} *", re.ASCII),
    r"etc/os-release": _TEXT,
    r"sys/devices/system/clocksource/clocksource0/current_clocksource": _WORD,
    rf"{_CPU}/online": re.compile(r"[\d,-]{1,4096}", re.ASCII),
    rf"{_CPU}/cpu\d{{1,4}}/cpu_capacity": _DIGITS,
    rf"{_CPU}/cpu\d{{1,4}}/cpufreq/scaling_governor": _WORD,
    rf"{_CPU}/cpu\d{{1,4}}/cpufreq/cpuinfo_max_freq": _DIGITS,
    r"arch": re.compile(r"\w{1,32}", re.ASCII),
    r"kernel": re.compile(r"[!-~]{1,128}"),
    r"bits": re.compile(r"32|64"),
    r"libc|libstdc\+\+|exe": re.compile(r"[ -~]{1,1024}"),
    r"others": _DIGITS,
    r"ro\.product\.manufacturer|ro\.product\.model|ro\.soc\.model": re.compile(r".{0,100}"),
    r"ro\.product\.cpu\.abi|ro\.build\.version\.release": _WORD,
}
_KINDS = [(re.compile(name, re.ASCII), line) for name, line in _FILES.items()]
_MARK = b"\x1e"  # no file of /proc or /sys holds it
_PACKAGES = {"python", "numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime"}
_SENSORS = {"temperature", "clock", "energy", "power", "battery", "vcgencmd", "tegrastats",
            "dumpsys"}  # fmt: skip
_SETTINGS = {"stay_on": {"yes"}, "low_power": {"no"}, "fixed_performance": {"yes", "refused"}}
_PYTHON = re.compile(
    r"(\d{1,2}) (\d{1,3}) (True|False) (\w{1,32})(?: (?:glibc (\d{1,2})\.(\d{1,2})\S*|.*))?",
    re.ASCII,
)


class AnswerError(DeviceError):
    """A device answered what no device answers: it is broken, or it means harm."""


@dataclass(frozen=True)
class Interpreter:
    """A Python there: its version, its pointers' width, its processor, its glibc if it has one."""

    version: tuple[int, int]
    wide: bool
    arch: str
    glibc: tuple[int, int] | None
    modules: frozenset[str]


def clean(text: str, most: int = 500) -> str:
    """Return a text in one line, without what could steer a terminal, no longer than ``most``."""
    shown = "".join(one if one.isprintable() else " " for one in text[:most])
    return f"{shown}…" if len(text) > most else shown


def shown(said: bytes, most: int = 500) -> str:
    """Return what a device said in the words of an error."""
    return clean(said[: 4 * most].decode(errors="replace").strip(), most)


def lines(said: bytes) -> Iterator[str]:
    """Walk the lines that are printable, whole and not endless.

    Raises:
        AnswerError: there are too many of them.
    """
    text = said.decode(errors="replace")
    for number, line in enumerate(text.splitlines()):
        if number >= _MOST_LINES:
            raise AnswerError(f"the device answered more than {_MOST_LINES} lines")
        if len(line) <= _LONGEST_LINE and line.replace("\t", " ").isprintable():
            yield line


def number(text: str, most: int = _LARGEST) -> int | None:
    """Return a whole number of ASCII digits up to ``most``, None where the text is none."""
    text = text.strip()
    if not _DIGITS.fullmatch(text) or int(text) > most:
        return None
    return int(text)


def core_numbers(text: str) -> set[int]:
    """Return the numbers of a kernel's list of cores (``0-3,6``); empty where it is none.

    Raises:
        AnswerError: there are more cores than a machine has.
    """
    found: set[int] = set()
    for span in filter(None, text.strip().split(",")):
        first, _, last = span.partition("-")
        begin, end = number(first), number(last or first)
        if begin is None or end is None:
            return set()
        if max(begin, end) >= MOST_CORES:
            raise AnswerError(
                f"the device tells of the cores {clean(span, 40)}: no machine has so many",
                hint="see what is in /sys/devices/system/cpu/online there",
            )
        found |= set(range(begin, end + 1))
    return found


def machine_files(said: bytes) -> dict[str, str]:
    """Return the files that a machine was asked for, by the names that it was asked with.

    A line that is no line of such a file is left out, and so is the last one where it was cut.

    Raises:
        AnswerError: it names a file that it was not asked for, or there is too much.
    """
    found: dict[str, str] = {}
    for piece in said.split(_MARK)[1:]:
        head, ended, body = piece.partition(b"\n")
        if not ended:
            continue
        name = head.decode(errors="replace")
        kind = next((line for known, line in _KINDS if known.fullmatch(name)), None)
        if kind is None or len(found) >= _MOST_FILES:
            raise AnswerError(f"the device told of a file that it was not asked for: {name[:80]!r}")
        whole = lines(body[: body.rfind(b"\n") + 1])
        found[name] = "".join(f"{line}\n" for line in whole if kind.fullmatch(line))
    return found


def path_there(said: bytes, what: str = "a folder") -> str:
    """Return the last line as a full path on the device, which is used nowhere but there.

    Raises:
        AnswerError: it is none.
    """
    last = (said.decode(errors="replace").rstrip("\n").rsplit("\n", 1) or [""])[-1]
    if not last.startswith("/") or len(last) > _LONGEST_PATH or not last.isprintable():
        raise AnswerError(f"the device was asked for {what} and answered {clean(last, 80)!r}")
    return last


def place_and_state(said: bytes) -> tuple[str, str]:
    """Return the path of a folder there, and the word in the line behind it.

    Raises:
        AnswerError: these are not what the last two lines are.
    """
    body, _, state = said.rstrip(b"\n").rpartition(b"\n")
    return path_there(body), shown(state, 100)


def interpreter(said: bytes, asked: Iterable[str]) -> Interpreter | None:
    """Return the Python that described itself in two lines; None where these are none.

    Of the modules that were asked for it has those that the second line names.
    """
    told = said.decode(errors="replace").splitlines()
    found = _PYTHON.fullmatch(told[0]) if len(told) == 2 else None
    if found is None:
        return None
    libc = (int(found[5]), int(found[6])) if found[5] else None
    version = (int(found[1]), int(found[2]))
    modules = frozenset(asked) & set(told[1].split())
    return Interpreter(version, found[3] == "True", found[4], libc, modules)


def runtimes_and_sensors(said: bytes) -> tuple[dict[str, str], list[str]]:
    """Return packages with their versions, and sensors, out of lines that name either."""
    words = [line.split() for line in lines(said)]
    packages = {
        one[1]: one[2]
        for one in words
        if len(one) == 3 and one[0] == "runtime" and one[1] in _PACKAGES and _WORD.fullmatch(one[2])
    }
    sensors = [one[1] for one in words if len(one) == 2 and one[0] == "sensor"]
    return packages, [name for name in dict.fromkeys(sensors) if name in _SENSORS]


def settings(said: bytes) -> dict[str, str]:
    """Return the settings that a phone was given, as it confirms them."""
    words = [line.split() for line in lines(said)]
    return {
        one[0]: one[1] for one in words if len(one) == 2 and one[1] in _SETTINGS.get(one[0], ())
    }


def uptime(text: str) -> float | None:
    """Return the seconds since a device was switched on; None where they are not told."""
    found = re.fullmatch(r"\s*(\d{1,10}(?:\.\d{1,6})?)\s*", text, re.ASCII)
    return float(found[1]) if found else None


def sizes(said: bytes) -> dict[str, int]:
    """Return the sizes of files by their paths in a folder there, out of the lines of ``wc``."""
    pairs = (line.strip().split(" ./", 1) for line in lines(said))
    found = ((one[1], number(one[0])) for one in pairs if len(one) == 2)
    return {name: size for name, size in found if size is not None}


def digest_and_name(said: bytes) -> tuple[str, str] | None:
    """Return a sha256 and the name of the file that it is of, None where they are not told."""
    words = said.decode(errors="replace").split()
    if len(words) != 2 or not _SHA256.fullmatch(words[0]):
        return None
    return words[0], clean(words[1].rpartition("/")[2], 100)
