"""The scripts of a job: what runs on the device so that a broken link loses nothing.

A job is a folder there. Frames arrive as ``in/1``, ``in/2``, …, each written whole and then
renamed; a small shell feeds them to the runner in that order, and leaves the empty file behind so
that a frame sent twice is fed once. What the runner answers is appended to ``out``, of which the
host has read so many bytes; stderr goes to ``log``, the exit status to ``code``. How the host
brings frames and reads answers is the stream's (`stream`).

Everything belongs to one session of processes. It kills itself, and removes the folder, when the
host gave no sign of life (``../beat``, one for all jobs of a host's process) for too long.

Nobody polls: a wait is a read from a named pipe (``bell`` rings the feeder, ``rung`` the stream),
so that nothing runs beside a measurement but one ``sleep`` per tick. Where the folder takes no
named pipes, twenty looks a second take their place. The scripts run on dash, busybox, bash, and
mksh with toybox.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

OVER, GONE, NO_PROGRAM, NO_FOLDER, NOT_STARTED, CUT_SHORT, NO_TOOL, NO_FILE = range(61, 69)
"""Exit statuses of the scripts: the runner ended, the job is no more, …"""

FULL = 284
"""The runner's "exit status" where what it answered did not fit: no process has one beyond 255."""

LOG_BYTES = 1 << 18
"""Bytes of the log's end that come with the end of a job."""

STATE = 4096
"""Bytes of the log's end that come with the exit status of a runner that ended."""

MAILBOX = r"""
# mailbox.sh FOLDER TICK TICKS COMMAND…: feed a runner; be gone TICKS ticks after the last beat.
folder=$1 tick=$2 patience=$3
shift 3
cd "$folder" || exit 1
mkdir lock 2>/dev/null || exit 0 # started twice by a host whose link broke in between
mkfifo bell rung 2>/dev/null
if [ -p bell ] && [ -p rung ]; then exec 3<>bell 4<>rung; else exec 3</dev/null 4>/dev/null; fi
ring() { echo >&4; echo >&3; }
rest() { if [ -p bell ]; then read -r x <&3; else sleep 0.05; fi; }
if [ ! -p bell ]; then ring() { :; }; fi

watch() {
  left=$patience seen=
  while [ "$left" -gt 0 ] && [ -d in ] && [ ! -e in/stop ]; do
    sleep "$tick"
    now=
    if [ -e ../beat ]; then read -r now <../beat; fi 2>/dev/null
    if [ "$now" = "$seen" ]; then left=$((left - 1)); else left=$patience seen=$now; fi
    if [ -p rung ]; then echo t >&4; fi
  done
  if [ -e talk ] && read -r shell <talk && [ "/proc/$shell/cwd" -ef . ]; then
    kill -KILL "-$shell" 2>/dev/null # a stream whose link hangs
  fi
  cd ..
  rm -rf "$folder"
  set -- */
  if [ ! -d "$1" ]; then rm -rf "${folder%/*}"; fi
  kill -KILL "-$$"
}

feed() {
  n=1
  while [ ! -e code ]; do
    if [ -e "in/$n" ]; then
      cat "in/$n" || return
      : >"in/$n"
      n=$((n + 1))
    else
      rest
    fi
  done
}

end() { # the status; a device that is full takes no new bytes, but a file may be renamed there
  [ ! -e code ] || return 0
  if echo "$1" >code.new; then mv code.new code; else mv full code; fi
  ring
}

run() {
  "$@" 2>>log 3<&- 4>&-
  end $?
}

gather() {
  if [ ! -p rung ]; then cat >>out; return; fi
  size=0
  while dd bs=65536 count=1 2>/dev/null >>out; do
    now=$(wc -c <out)
    if [ "$now" -eq "$size" ]; then return 0; fi
    size=$now
    echo "$now" >&4
  done
  return 1
}

collect() { # what the runner says; where it does not fit the job is over, whatever the runner does
  gather || mv full code
  : >collected
  ring
}

: >out
: >log
echo @full@ >full || exit 1
watch &
echo $$ >pid.new
mv pid.new pid
feed | run "$@" | collect
wait
""".replace("@full@", str(FULL))

BEAT = "echo {token} >../beat 2>/dev/null"
"""Gives a sign of life, in a job's folder."""

ALIVE = r"""
alive() { # whether the session that wrote ./pid lives: a number may be another's after a restart
  [ -e pid ] && read -r pid <pid && [ "/proc/$pid/cwd" -ef . ]
}
hush() { # end the shells of a stream (`stream`), also those of a link that hangs
  [ -e talk ] && read -r shell <talk && [ "/proc/$shell/cwd" -ef . ] || return 0
  kill -KILL "-$shell" 2>/dev/null
}
remove() { # the job's folder, and with the last job that of its host
  job=$PWD
  cd ..
  rm -rf "$job" 2>/dev/null || { sleep 0.2; rm -rf "$job"; } # a killed writer may be at it still
  set -- */
  if [ ! -d "$1" ]; then rm -rf "$PWD"; fi
}
"""
"""Functions of the scripts that begin in a job's folder."""

_START = r"""
umask 077
mkdir -p {jobs} && cd {jobs} || exit {no_folder}
if [ ! -w . ]; then exit {no_folder}; fi
for old in */*/; do # what a device that was switched off left behind
  [ -e "$old/pid" ] && (cd "$old" && ! alive) && rm -rf "$old"
done
command -v setsid >/dev/null || {{ echo setsid >&2; exit {no_tool}; }}
{tools}
for file in {files}; do [ -e "$file" ] || {{ echo "$file" >&2; exit {no_file}; }}; done
command -v {program} >/dev/null || exit {no_program}
mkdir -p {job}/in {job}/tmp && cd {job} || exit {no_folder}
if [ ! -e pid ]; then
  printf '%s' {mailbox} >mailbox.$$ && [ "$(wc -c <mailbox.$$)" -eq {size} ] || exit {cut_short}
  mv mailbox.$$ mailbox.sh
  {beat}
  # No pipe of ours goes along: the client would wait for its end.
  setsid env -i {environment} sh ./mailbox.sh "$PWD" {tick} {ticks} {argv} \
    </dev/null >/dev/null 2>&1 &
fi
tries=0
while [ ! -e pid ]; do
  tries=$((tries + 1))
  if [ $tries -gt 200 ]; then exit {not_started}; fi
  sleep 0.05
done
"""

_CLOSE = r"""
cd {job} 2>/dev/null || exit 0
: >in/stop
if alive; then kill -KILL "-$pid"; fi
hush
tail -c {log} log 2>/dev/null
remove
"""


def limits(patience_s: float) -> tuple[int, int]:
    """Return the seconds of a tick, and the ticks after which a job that hears nothing ends."""
    tick = max(1, min(5, int(patience_s / 6)))
    return tick, math.ceil(patience_s / tick)


def start(
    jobs: str,
    job: str,
    argv: Sequence[str],
    environment: str,
    limits: tuple[int, int],
    tools: Sequence[str] = (),
    files: Sequence[str] = (),
) -> str:
    """Return the script that starts a job in the folder ``jobs``/``job``; it may run twice.

    ``environment`` is words for ``env``, quoted already; ``limits`` are the seconds of a tick and
    the ticks of patience; ``tools`` are programs and ``files`` paths that must be there.
    """
    return ALIVE + _START.format(
        jobs=jobs,
        job=shlex.quote(job),
        argv=shlex.join(argv),
        program=shlex.quote(argv[0]),
        environment=environment,
        tick=limits[0],
        ticks=limits[1],
        size=len(MAILBOX.encode()),
        beat=BEAT.format(token="begin"),
        files=shlex.join(files),
        mailbox=shlex.quote(MAILBOX),
        tools="\n".join(
            f"command -v {tool} >/dev/null || {{ echo {tool} >&2; exit {NO_TOOL}; }}"
            for tool in map(shlex.quote, tools)
        ),
        no_folder=NO_FOLDER,
        no_file=NO_FILE,
        no_tool=NO_TOOL,
        no_program=NO_PROGRAM,
        cut_short=CUT_SHORT,
        not_started=NOT_STARTED,
    )


def close(folder: str) -> str:
    """Return the script that ends a job, prints the end of its log and removes its folder."""
    return ALIVE + _CLOSE.format(job=folder, log=LOG_BYTES)
