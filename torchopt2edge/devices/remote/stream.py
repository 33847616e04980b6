"""A job's channel: what runs at the device's end of it, and the client at ours.

A line to the device is a number, a size, a word that shows that we live, and a frame: spelt out
where it is small, else as so many bytes behind the line. Number 0 brings no frame and asks for the
word back, -1 ends the job. Lines from there are ``t2e-open TAKEN RAW`` (the frames that arrived so
far; whether the device takes bytes behind a line), ``t2e-piece SIZE`` and so many bytes of the
runner's answers, ``t2e-alive WORD`` once per tick and where a word was asked for, ``t2e-log SIZE``
and bytes, and ``t2e-ended STATUS CODE`` as the last.

Two shells on the device, in a group of their own: one takes lines, the other waits, as
`job_scripts` has it, for answers to forward. With the link, the host or the job the
whole group ends.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from torchopt2edge.devices.child_process import kill_group, write_all
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.transport import LinkDown, heard, unstarted
from torchopt2edge.errors import DeviceError
from torchopt2edge.runner.frames import wait_for

SMALL = 4096
"""Bytes of the largest frame that is spelt out: a shell reads a line byte by byte."""
_SPELT = [
    bytes([byte]) if 0x21 <= byte <= 0x7E and byte != 0x5C else b"\\0%03o" % byte
    for byte in range(256)
]

_TALK = r"""
{beat}
leave() {{ # STATUS CODE: the last line, and the end of all that this channel started
  printf 't2e-ended %d %d\n' "$1" "${{2:-0}}"
  kill -TERM "-$main"
  exit 0
}}
main=$$
read -r pid comm state parent group x <"/proc/$$/stat"
if [ "$group" != "$$" ]; then # no group of its own
  printf 't2e-ended %d 0\n' {unable}
  exit 0
fi
[ -p rung ] && [ "$(printf '%b' 'a\0102c' | head -c 2)" = aB ] || leave {unable}
raw=0 # whether dd reads exactly so many bytes, from a pipe too
bytes() {{ # FROM COUNT
  dd bs=65536 skip="$1" count="$2" iflag=fullblock,skip_bytes,count_bytes 2>/dev/null
}}
if [ "$(printf abcd | bytes 1 2)" = bc ]; then raw=1; fi
hush

wake() {{ # WHY WORD: ours, for what an earlier channel wrote may lie there still
  if [ -p rung ]; then echo "$1 $main $2" 1<>rung; fi
}}
ring() {{ if [ -p bell ]; then echo 1<>bell; fi; }}

take() {{
  while read -r number size word frame; do
    if [ "$number" -lt 0 ]; then
      wake end
      continue
    fi
    echo "$word" >../beat
    if [ "$number" -eq 0 ]; then
      wake alive "$word"
      continue
    fi
    if [ -n "$frame" ]; then
      printf '%b' "$frame" >part.talk
    else
      bytes 0 "$size" >part.talk && [ "$(wc -c <part.talk)" -eq "$size" ]
    fi
    if [ $? -ne 0 ]; then # the device is full, or the link is cut
      rm -f part.talk
      wake refused
      return
    fi
    if [ -e "in/$number" ]; then rm -f part.talk; else mv part.talk "in/$number"; fi
    ring
  done 2>/dev/null
  kill -TERM "-$main" # the link ended, or the host
}}

piece() {{ # KIND FROM TO FILE
  printf 't2e-%s %d\n' "$1" $(($3 - $2))
  if [ $raw = 1 ]; then
    bytes "$2" $(($3 - $2)) 2>/dev/null <"$4"
  else
    tail -c +$(($2 + 1)) "$4" 2>/dev/null | head -c $(($3 - $2))
  fi
  [ -e "$4" ] || kill -KILL "-$main" # fewer bytes than promised: nothing may follow them
}}

last() {{ # BYTES: the end of the log
  size=$(wc -c 2>/dev/null <log) || return
  from=$((size - $1))
  if [ $from -lt 0 ]; then from=0; fi
  piece log $from "$size" log
}}

over() {{ # what a runner that ended left running may hold its output open for ever
  tries=0
  while [ ! -e collected ] && [ $tries -lt 40 ]; do
    tries=$((tries + 1))
    sleep 0.05
  done
  size=$(wc -c 2>/dev/null <out) || leave {gone}
  if [ "$size" -gt "$offset" ]; then piece piece "$offset" "$size" out; fi
  read -r code <code
  last {state}
  leave {over} "$code"
}}

finish() {{
  : >in/stop
  if alive; then kill -KILL "-$pid"; fi
  last {log}
  remove
  leave 0
}}

exec 7<&0 5<>rung 6<rung 5>&- # opening never blocks, and the last writer's end is seen
take <&7 7<&- 6<&- &
exec 7<&- </dev/null
echo "$$" >talk
ring # a frame may lie there that an earlier channel could not ring for any more
taken=0
while [ -e "in/$((taken + 1))" ]; do taken=$((taken + 1)); done
printf 't2e-open %d %d\n' $taken $raw
offset={offset} about= whose= word=
while case $about in
  t) ;; # a tick takes no process
  [0-9]*) size=$about ;;
  *) size=$(wc -c 2>/dev/null <out) ;;
esac do
  case $about$whose in
    refused$main) leave {cut_short} ;;
    end$main) finish ;;
  esac
  if [ "$size" -gt "$offset" ]; then
    piece piece "$offset" "$size" out
    offset=$size
  elif [ -e code ]; then
    over
  elif alive; then
    printf 't2e-alive %s\n' "$word"
  else
    last {state}
    leave {gone}
  fi
  read -r about whose word <&6 || sleep 0.05
done
leave {gone}
"""


def script(folder: str, token: str, offset: int, before: str = "") -> str:
    """Return the script at the device's end; it begins at ``offset`` of the runner's answers.

    ``folder`` is the job's, quoted already; ``token`` is the first sign of life; ``before`` is
    run first, and must succeed.
    """
    first = f"(\n{before}\n) || {{ printf 't2e-ended %d 0\\n' $?; exit 0; }}\n" if before else ""
    find = f"cd {folder} 2>/dev/null || {{ echo t2e-ended {job_scripts.GONE} 0; exit 0; }}\n"
    talk = _TALK.format(
        beat=job_scripts.BEAT.format(token=token),
        offset=offset,
        state=job_scripts.STATE,
        log=job_scripts.LOG_BYTES,
        unable=job_scripts.NO_CHANNEL,
        gone=job_scripts.GONE,
        over=job_scripts.OVER,
        cut_short=job_scripts.CUT_SHORT,
    )
    return first + find + job_scripts.ALIVE + talk


def line(number: int, body: bytes, word: str) -> bytes:
    """Return what brings a frame: its line, and its bytes behind it where it is not small."""
    head = f"{number} {len(body)} {word}".encode()
    if len(body) > SMALL:
        return head + b"\n" + body
    return head + b" " + b"".join(_SPELT[byte] for byte in body) + b"\n"


class Channel:
    """A client with pipes on stdin and stdout, in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise DeviceError("a channel needs pipes on stdin and stdout")
        self._process = process
        self._said = said
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(process.stdin.fileno(), False)

    @classmethod
    def start(cls, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Channel:
        """Start a client.

        Raises:
            DeviceError: there is no such program.
        """
        said = tempfile.TemporaryFile()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            said.close()
            raise unstarted(argv[0], error) from error
        return cls(process, said)

    @property
    def pid(self) -> int:
        """The client's process id."""
        return self._process.pid

    def write(self, data: bytes, deadline: float) -> None:
        """Write to the script's stdin.

        Raises:
            LinkDown: it is closed, or did not take it before ``deadline``.
        """
        try:
            write_all(self._stdin.fileno(), data, deadline)
        except (TimeoutError, OSError) as error:
            raise LinkDown(f"the channel broke: {self.said or error}") from error

    def read(self, deadline: float) -> bytes:
        """Return what came of the script's stdout.

        Raises:
            TimeoutError: nothing came before ``deadline``.
            LinkDown: it is closed.
        """
        wait_for(self._stdout.fileno(), select.POLLIN, deadline)
        got = os.read(self._stdout.fileno(), 1 << 20)
        if not got:
            raise LinkDown(f"the channel broke: {self.said or 'it was closed'}")
        return got

    def close(self) -> None:
        """End the client; its end of the link tells the script's."""
        kill_group(self._process)
        self._said.close()

    @property
    def said(self) -> str:
        """What the client and the script wrote to stderr."""
        return heard(self._said).decode(errors="replace").strip()


@dataclass(frozen=True)
class Event:
    """A line from the device (its kind and words), or some of the bytes behind one."""

    kind: str
    words: tuple[str, ...] = ()
    body: bytes = b""


class Stream:
    """What came over a channel, cut into events; before ``open`` a device may say anything."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._kind = ""
        self._due = 0

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._held += data

    def next(self) -> Event | None:
        """Return the next event, None when more bytes are needed for one."""
        while not self._due:
            text, ended, rest = self._held.partition(b"\n")
            if not ended:
                return None
            self._held = rest
            kind, *words = text.decode(errors="replace").split() or [""]
            if kind in ("t2e-piece", "t2e-log") and words and words[0].isdigit():
                self._kind, self._due = kind[4:], int(words[0])
            elif kind.startswith("t2e-"):
                return Event(kind[4:], tuple(words))
        body = bytes(self._held[: self._due])
        if not body:
            return None
        del self._held[: len(body)]
        self._due -= len(body)
        return Event(self._kind, body=body)
