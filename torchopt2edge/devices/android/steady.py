"""Keeps a phone steady while it is measured, watches its sensors, and puts everything back.

On the device a small shell, the keeper, notes what the settings were (``steady.before`` in the
device's folder), changes them, and writes a sample a second into its folder. It puts them back
when the host says so, or gave no sign of life for too long; where the phone was switched off in
between, the next start does.
"""

from __future__ import annotations

import contextlib
import shlex
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from torchopt2edge.devices import answers
from torchopt2edge.devices.android import sensors as android_sensors
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.device import RUN, Remote
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Facts

NO_ANDROID = 70
"""Exit status of the start: there is no Android there to keep steady."""

_STALE_S = 15.0  # a sample that old tells nothing of now
_ENDING = 16384  # bytes of the samples' end in which the last whole one lies
_PIECE, _MOST = 8 << 20, 128 << 20  # bytes of samples that come at once, and at all
_FAREWELL_S = 5.0

RESTORE = r"""
put() {
  if [ "$2" = null ]; then settings delete global "$1"; else settings put global "$1" "$2"; fi
}
restore() { # put back what $before says; it is forgotten when all of that is done
  [ -e "$before" ] || return 0
  lost=
  while read -r name value; do
    case $name in
      stay_on) put stay_on_while_plugged_in "$value" </dev/null || lost=1 ;;
      low_power) put low_power "$value" </dev/null || lost=1 ;;
      fixed) cmd power set-fixed-performance-mode-enabled false </dev/null || lost=1 ;;
    esac
  done <"$before" >/dev/null 2>&1
  if [ -z "$lost" ]; then rm -f "$before"; fi
}
"""

_ALIVE = r"""
tidy() { # remove a run's folder when no job is left in it
  for at in "$1"/*/; do
    if [ -d "$at" ]; then return; fi
  done
  rm -rf "$1"
}
keeps() { # whether the keeper of a folder lives: a number may be another's after a restart
  [ -e "$1/keeper" ] && read -r pid <"$1/keeper" && [ "/proc/$pid/cwd" -ef "$1" ]
}
"""

KEEPER = (
    android_sensors.SAMPLE
    + RESTORE
    + _ALIVE
    + r"""
# keeper.sh FOLDER BEFORE PATIENCE FIXED [KEPT]: keep steady, unless another keeper does (KEPT);
# be gone PATIENCE seconds after the last beat.
before=$2 left=$3 fixed=$4 seen= n=0
cd "$1" || exit 1
mkdir lock 2>/dev/null || exit 0 # started twice by a host whose link broke in between
: >applied
if [ -z "$5" ]; then restore; fi # what a phone that was switched off left behind
if [ ! -e "$before" ]; then # else another keeper noted what was
  stay=$(settings get global stay_on_while_plugged_in 2>/dev/null </dev/null)
  power=$(settings get global low_power 2>/dev/null </dev/null)
  case $stay in null | [0-9] | [0-9][0-9]) ;; *) stay= ;; esac
  { # noted before anything is changed
    if [ -n "$stay" ]; then echo "stay_on $stay"; fi
    if [ "$power" = 1 ]; then echo "low_power 1"; fi
    if [ "$fixed" = 1 ]; then echo "fixed false"; fi
  } >"$before.new" && mv "$before.new" "$before" && {
    if [ -n "$stay" ] && svc power stayon true; then echo "stay_on yes" >>applied; fi
    if [ "$power" = 1 ] && settings put global low_power 0; then echo "low_power no" >>applied; fi
    if [ "$fixed" = 1 ]; then
      if cmd power set-fixed-performance-mode-enabled true; then
        echo "fixed_performance yes" >>applied
      else
        echo "fixed_performance refused" >>applied
      fi
    fi
  } </dev/null >/dev/null 2>&1
fi
sample battery >>samples
echo $$ >keeper.new
mv keeper.new keeper
while [ "$left" -gt 0 ] && [ -e keeper ]; do
  sleep 1
  n=$((n + 1))
  if [ $((n % 10)) -eq 0 ]; then sample battery; else sample; fi >>samples
  now=
  { read -r now <../beat; } 2>/dev/null
  if [ "$now" = "$seen" ]; then left=$((left - 1)); else left=$3 seen=$now; fi
done
restore
cd ..
rm -rf "$1"
tidy "${1%/*}"
"""
)

_START = r"""
command -v dumpsys >/dev/null && command -v settings >/dev/null || exit {no_android}
umask 077
mkdir -p {folder} && cd {folder} && [ -w . ] || exit {no_folder}
before=$PWD/steady.before job=$PWD/jobs/{job} kept=
for old in "$PWD"/jobs/*/steady-*; do
  if [ "$old" = "$job" ] || [ ! -d "$old" ]; then continue; fi
  if keeps "$old"; then kept=1; continue; fi
  rm -rf "$old" # of a phone that was switched off
  tidy "${{old%/*}}"
done
mkdir -p "$job" && cd "$job" || exit {no_folder}
if [ ! -e keeper ] && [ ! -e lock ]; then
  cat >keeper.$$ && [ "$(wc -c <keeper.$$)" -eq {size} ] || exit {cut_short}
  mv keeper.$$ keeper.sh
  echo begin >../beat
  setsid sh ./keeper.sh "$job" "$before" {patience} {fixed} $kept </dev/null >/dev/null 2>&1 &
fi
tries=0
while [ ! -e keeper ]; do
  tries=$((tries + 1))
  if [ $tries -gt 400 ]; then exit {not_started}; fi
  sleep 0.05
done
cat applied
"""

_LOOK = r"""
cd {job} 2>/dev/null || exit {gone}
echo {token} >../beat
{{ {tell}; }} 2>/dev/null
read -r up x </proc/uptime
printf '\036now\n%s\n' "$up"
"""

_STOP = r"""
cd {folder} 2>/dev/null || exit 0
before=$PWD/steady.before job=$PWD/jobs/{job}
if keeps "$job"; then kill -KILL "-$pid"; fi
kept=
for other in "$PWD"/jobs/*/steady-*; do
  if [ "$other" != "$job" ] && keeps "$other"; then kept=1; fi
done
if [ -z "$kept" ]; then restore; fi
rm -rf "$job" 2>/dev/null || {{ sleep 0.2; rm -rf "$job"; }} # a killed writer may be at it still
tidy "${{job%/*}}"
[ ! -e "$before" ] || [ -n "$kept" ]
"""


@dataclass
class Keeper:
    """The host's end of a keeper: what it set, and what it saw (an `interfaces.Watch`)."""

    device: Remote
    job: str
    settings: Facts = field(default_factory=dict)
    _behind: float | None = None  # our monotonic clock less the device's uptime

    def facts(self) -> Facts:
        """Say what was set for the time of the measurement."""
        return {"steady": dict(self.settings)}

    def sense(self) -> Facts:
        """Return the last sample, which costs the device nothing; {} when there is none of now."""
        try:
            said, now = self._told(f"tail -c {_ENDING} samples")
        except DeviceError:
            return {}
        found = _read(said)
        return found[-1][1] if found and now - found[-1][0] < _STALE_S else {}

    def moments(self) -> list[tuple[float, Facts]]:
        """Return all samples so far, each with its time by our ``time.monotonic``.

        What cannot be fetched is []: a measurement is worth having without.
        """
        whole = b""
        try:
            while len(whole) < _MOST:
                said, _ = self._told(f"tail -c +{len(whole) + 1} samples | head -c {_PIECE}")
                whole += said
                if len(said) < _PIECE:
                    break
        except DeviceError:
            return []
        behind = self._behind or 0.0
        return [(at + behind, sensors) for at, sensors in _read(whole)]

    def _told(self, tell: str) -> tuple[bytes, float]:
        """Return what a command prints, and the device's uptime, which comes with every answer."""
        script = _LOOK.format(
            job=shlex.quote(f"{self.device.folder}/jobs/{self.job}"),
            token=uuid.uuid4().hex[:8],
            tell=tell,
            gone=job_scripts.GONE,
        )
        found = self.device.run(script, timeout_s=120.0)
        said, _, now = found.stdout.rpartition(b"\x1enow\n")
        up = answers.uptime(answers.shown(now))
        if found.code or up is None:
            raise DeviceError("the keeper is no more", artifact=self.device.name)
        # An answer is late by its way here: the earliest is the truest.
        behind = time.monotonic() - up
        self._behind = behind if self._behind is None else min(self._behind, behind)
        return said, up


def _read(said: bytes) -> list[tuple[float, Facts]]:
    return android_sensors.read(said.decode(errors="replace"))


@contextlib.contextmanager
def steady(device: Remote, fixed: bool = False) -> Iterator[Keeper | None]:
    """Keep an Android device steady for as long as the block runs; None where there is none.

    Its screen stays on, battery saver is off, and with ``fixed`` its clocks stay where they can
    be held. Where the link is down at the end, the device puts the settings back by itself.

    Raises:
        DeviceError: the device cannot be reached, or its folder not be written.
    """
    job = f"{RUN}/steady-{uuid.uuid4().hex[:8]}"
    try:
        settings = _start(device, job, fixed)
        yield None if settings is None else Keeper(device, job, settings)
    finally:
        with contextlib.suppress(DeviceError):
            device.run(stop(device.folder, job), timeout_s=30.0, patience_s=_FAREWELL_S)


def _start(device: Remote, job: str, fixed: bool) -> Facts | None:
    """Start the keeper and return what it set; None where the device is no Android."""
    found = device.run(start(device, job, fixed), KEEPER.encode())
    if found.code == NO_ANDROID:
        return None
    if found.code:
        raise _unstarted(device, found)
    return dict(answers.settings(found.stdout))


def _unstarted(device: Remote, found: Finished) -> DeviceError:
    return DeviceError(
        f"{device.name} cannot be kept steady: status {found.code} {found.said}".rstrip(),
        artifact=f"{device.folder}/jobs",
        hint="device.workdir=FOLDER, one that can be written there",
    )


def start(device: Remote, job: str, fixed: bool) -> str:
    """Return the script that starts a keeper in ``jobs``/``job``; `KEEPER` is its stdin."""
    return (
        RESTORE
        + _ALIVE
        + _START.format(
            folder=shlex.quote(device.folder),
            job=shlex.quote(job),
            size=len(KEEPER.encode()),
            patience=max(1, int(device.patience_s)),
            fixed=int(fixed),
            no_android=NO_ANDROID,
            no_folder=job_scripts.NO_FOLDER,
            cut_short=job_scripts.CUT_SHORT,
            not_started=job_scripts.NOT_STARTED,
        )
    )


def stop(folder: str, job: str) -> str:
    """Return the script that ends a keeper and puts the settings back."""
    return RESTORE + _ALIVE + _STOP.format(folder=shlex.quote(folder), job=shlex.quote(job))
