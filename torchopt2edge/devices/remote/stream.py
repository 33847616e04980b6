"""A job's stream: the script at the device's end of it, and the client at ours.

One command per job carries all of its frames; where the link breaks, the next one goes on. A line
to the device is a number, a size, a word that shows that we live, and a frame: spelt out where it
is small, as so many bytes behind the line where the device can read exactly those (``RAW``), else
``@`` for one that was pushed as a file before. Number 0 brings no frame and asks for the word back,
-1 ends the job. Lines from there are ``t2e-open TAKEN RAW`` (the frames that arrived so far),
``t2e-piece SIZE`` and so many bytes of the runner's answers, ``t2e-alive WORD`` once per tick and
where a word was asked for, ``t2e-log SIZE`` and bytes, and ``t2e-ended STATUS CODE`` as the last.

Two shells on the device, in a group of their own: one takes lines, the other waits, as
`job_scripts` has it, for answers to forward. With the link, the host or the job the whole group
ends. A device that lacks named pipes, an exact ``dd`` or ``head -c`` is slower, and not refused.
"""

from __future__ import annotations

import math
import os
import select
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.devices import answers
from torchopt2edge.devices.child_process import kill_group, write_all
from torchopt2edge.devices.output import Tail, drain
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.transport import LinkDown, unstarted
from torchopt2edge.errors import DeviceError

SMALL = 4096
"""Bytes of the largest frame that is spelt out: a shell reads a line byte by byte."""

PUSHED = "pushed"
"""The file in a job's folder in which a frame arrives that is neither spelt nor sent behind."""

_SPELT = [
    bytes([byte]) if 0x21 <= byte <= 0x7E and byte not in b"@\\" else b"\\0%03o" % byte
    for byte in range(256)
]
_LAST_LINES = 10  # of what a client says
_LOOKS_S = 20  # looks per second where there are no named pipes
_LONGEST_WORDS, _MOST_BEFORE = 256, 1 << 20  # bytes of a line, and of what comes before the first
_KINDS = {"open": 2, "ended": 2, "piece": 1, "log": 1}  # a line of ours → its words, where fixed

# A group of its own can be ended as a whole. setsid would fork where there is one already. Read by
# `cat`: an emulator (qemu-user) shows a process another file of its own than it shows to others.
_GROUP = """stat=$(cat "/proc/$$/stat" 2>/dev/null)
set -- ${{stat##*) }} # state, parent, group
case $3 in "$$" | '') set -- ;; *) set -- setsid ;; esac
exec "$@" sh -c {script}"""

_TALK = r"""
{beat}
leave() {{ # STATUS CODE: the last line, and the end of all that this stream started
  printf 't2e-ended %d %d\n' "$1" "${{2:-0}}"
  kill -TERM "-$main"
  exit 0
}}
main=$$
raw=0 # whether dd reads exactly so many bytes, from a pipe too
bytes() {{ # FROM COUNT
  dd bs=65536 skip="$1" count="$2" iflag=fullblock,skip_bytes,count_bytes 2>/dev/null
}}
if [ "$(printf abcd | bytes 1 2)" = bc ]; then raw=1; fi
if [ "$(printf ab | head -c 1 2>/dev/null)" = a ]; then first() {{ head -c "$1"; }}
else first() {{ dd bs=1 count="$1" 2>/dev/null; }}; fi
hush

wake() {{ # WHY WORD: ours, for what an earlier stream wrote may lie there still
  if [ -p rung ]; then echo "$1 $main $2" 1<>rung
  else echo "$1 $main $2" >note.new && mv note.new note; fi
}}
ring() {{ if [ -p bell ]; then echo 1<>bell; fi; }}
listen() {{ # what wakes us: about whose word
  if [ -p rung ]; then
    read -r about whose word <&6 || sleep 0.05
    return
  fi
  sleep 0.05
  looks=$((looks + 1)) about= whose= word=
  if [ -e note ]; then
    read -r about whose word <note
    rm -f note
  elif [ $((looks % {looks})) -eq 0 ]; then
    about=t
  fi
}}

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
    case $frame in
      @) mv {pushed} part.talk && [ "$(wc -c <part.talk)" -eq "$size" ] ;;
      ?*) printf '%b' "$frame" >part.talk ;;
      *) bytes 0 "$size" >part.talk && [ "$(wc -c <part.talk)" -eq "$size" ] ;;
    esac
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
    tail -c +$(($2 + 1)) "$4" 2>/dev/null | first $(($3 - $2))
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

rm -f note
exec 7<&0
if [ -p rung ]; then exec 5<>rung 6<rung 5>&-; fi # never blocks, and the last writer's end is seen
take <&7 7<&- 6<&- &
exec 7<&- </dev/null
echo "$$" >talk
ring # a frame may lie there that an earlier stream could not ring for any more
taken=0
while [ -e "in/$((taken + 1))" ]; do taken=$((taken + 1)); done
printf 't2e-open %d %d\n' $taken $raw
offset={offset} looks=0 about= whose= word=
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
  elif ! alive; then
    last {state}
    leave {gone}
  elif [ -n "$about" ]; then
    printf 't2e-alive %s\n' "$word"
  fi
  listen
done
leave {gone}
"""


def script(folder: str, token: str, offset: int, tick_s: int, before: str = "") -> str:
    """Return the script at the device's end; it begins at ``offset`` of the runner's answers.

    ``folder`` is the job's, quoted already; ``token`` is the first sign of life; ``tick_s`` are
    the seconds of the job's tick; ``before`` is run first, and must succeed.
    """
    first = f"(\n{before}\n) || {{ printf 't2e-ended %d 0\\n' $?; exit 0; }}\n" if before else ""
    find = f"cd {folder} 2>/dev/null || {{ echo t2e-ended {job_scripts.GONE} 0; exit 0; }}\n"
    talk = _TALK.format(
        beat=job_scripts.BEAT.format(token=token),
        offset=offset,
        looks=_LOOKS_S * tick_s,
        pushed=PUSHED,
        state=job_scripts.STATE,
        log=job_scripts.LOG_BYTES,
        gone=job_scripts.GONE,
        over=job_scripts.OVER,
        cut_short=job_scripts.CUT_SHORT,
    )
    return _GROUP.format(script=shlex.quote(first + find + job_scripts.ALIVE + talk))


def line(number: int, body: bytes, word: str, raw: bool) -> bytes:
    """Return what brings a frame: its line, and its bytes behind it where it is not small.

    Where the device cannot read those (``raw``) it finds them in the file `PUSHED`.
    """
    head = f"{number} {len(body)} {word}".encode()
    if 0 < len(body) <= SMALL:
        return head + b" " + b"".join(_SPELT[byte] for byte in body) + b"\n"
    return head + (b"\n" + body if raw else b" @\n")


class Stream:
    """A client with pipes to the script's stdin, stdout and stderr, in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise DeviceError("a stream needs pipes on stdin, stdout and stderr")
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._words = Tail()
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    @classmethod
    def start(cls, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Stream:
        """Start a client.

        Raises:
            DeviceError: there is no such program.
        """
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise unstarted(argv[0], error) from error
        return cls(process)

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
            raise LinkDown(f"the stream broke: {answers.clean(self.said) or error}") from error

    def read(self, deadline: float) -> bytes:
        """Return what came of the script's stdout; what came of its stderr is kept, up to a size.

        Raises:
            TimeoutError: nothing came before ``deadline``.
            LinkDown: it is closed.
        """
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        poll.register(self._stderr, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(math.ceil(left * 1000))}
            if self._stderr.fileno() in ready and not drain(self._stderr, self._words.add):
                poll.unregister(self._stderr)
            if self._stdout.fileno() not in ready:
                continue
            got = os.read(self._stdout.fileno(), 1 << 20)
            if not got:
                raise LinkDown(f"the stream broke: {answers.clean(self.said) or 'it was closed'}")
            return got
        raise TimeoutError("nothing came in time")

    def close(self) -> None:
        """End the client; its end of the link tells the script's."""
        self._listen()
        kill_group(self._process)

    @property
    def said(self) -> str:
        """What the client and the script wrote to stderr: the last lines, as they can be shown."""
        self._listen()
        lines = self._words.kept.strip().splitlines()
        return "\n".join(answers.shown(line) for line in lines[-_LAST_LINES:])

    def _listen(self) -> None:
        if not self._stderr.closed:
            drain(self._stderr, self._words.add)


@dataclass(frozen=True)
class Event:
    """A line from the device (its kind and words), or some of the bytes behind one."""

    kind: str
    words: tuple[str, ...] = ()
    body: bytes = b""


class EventReader:
    """What came over a stream, cut into events; before ``open`` a device may say anything."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._kind = ""
        self._due = 0
        self._before = 0

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._held += data

    def next(self) -> Event | None:
        """Return the next event, None when more bytes are needed for one.

        Raises:
            AnswerError: what came is no line of a job's stream, or there is too much of it.
        """
        while not self._due:
            end = self._held.find(b"\n")
            if end < 0:
                if len(self._held) > _MOST_BEFORE:
                    raise self._strange(bytes(self._held[:80]))
                return None
            text = bytes(self._held[:end])
            del self._held[: end + 1]
            event = self._event(text)
            if event is not None:
                return event
        body = bytes(self._held[: self._due])
        if not body:
            return None
        del self._held[: len(body)]
        self._due -= len(body)
        return Event(self._kind, body=body)

    def _event(self, text: bytes) -> Event | None:
        """Read a line; None where it announces bytes, or is none of ours."""
        if not text.startswith(b"t2e-"):
            self._before += len(text) + 1
            if self._before > _MOST_BEFORE:
                raise self._strange(text)
            return None
        kind, *words = answers.shown(text, _LONGEST_WORDS).split()
        name = kind.removeprefix("t2e-")
        if len(text) > _LONGEST_WORDS or len(words) != _KINDS.get(name, len(words)):
            raise self._strange(text)
        if name in ("piece", "log"):
            size = answers.number(words[0])
            if size is None:
                raise self._strange(text)
            self._kind, self._due = name, size
            return None
        return Event(name, tuple(words))

    def _strange(self, text: bytes) -> answers.AnswerError:
        return answers.AnswerError(f"the device sent no line of a job: {answers.shown(text, 80)!r}")
