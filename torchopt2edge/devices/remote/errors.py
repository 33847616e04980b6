"""What a device refused, as errors that say what to type next."""

from __future__ import annotations

from torchopt2edge.devices import answers
from torchopt2edge.devices.remote import job_scripts
from torchopt2edge.devices.remote.transport import Finished
from torchopt2edge.errors import DeviceError

ROOM = "free some space there, or device.workdir=FOLDER"
"""The hint for a device that is full."""


def unwritable(device: str, place: str, found: Finished) -> DeviceError:
    """Return the error for a folder there that takes no files."""
    return DeviceError(
        f"the folder cannot be written on {device}: {found.said}",
        artifact=place,
        hint="device.workdir=FOLDER, one that can be written and holds programs",
    )


def cut_short(device: str, artifact: object, found: Finished) -> DeviceError:
    """Return the error for what arrived there, and is not what was sent."""
    return DeviceError(
        f"what arrived on {device} is not what was sent: {found.said or 'it is shorter'}",
        artifact=artifact,
        hint=ROOM,
    )


def unpushed(error: DeviceError, artifact: object, free: Finished) -> DeviceError:
    """Return the error for what could not be sent; ``free`` is what ``df`` said there."""
    told = answers.shown(free.stdout, 200)
    return DeviceError(f"{error.what} (df: {told})", artifact=artifact, hint=error.hint or ROOM)


def unstarted(device: str, folder: str, found: Finished, program: str, runner: str) -> DeviceError:
    """Return the error for a job that did not start (`job_scripts.start`)."""
    if found.code == job_scripts.NO_TOOL and found.said != program:
        return DeviceError(
            f"{device} has no {found.said}",
            hint="device.affinity=null, or apt-get install util-linux there"
            if found.said == "taskset"
            else "apt-get install util-linux there",
        )
    if found.code == job_scripts.NO_FILE:
        return DeviceError(
            f"{found.said} is no more on {device}: it was removed while we worked",
            hint="run it again: it is sent anew",
        )
    if found.code in (job_scripts.NO_PROGRAM, job_scripts.NO_TOOL):
        return DeviceError(
            f"{device} has no program {program}, or may not run it",
            hint=f"device.python=PATH of a Python there; runner={runner}"
            if runner == "python"
            else "device.workdir=FOLDER, one that programs may run in",
        )
    if found.code == job_scripts.NO_FOLDER:
        return unwritable(device, f"{folder}/jobs", found)
    return DeviceError(
        f"the job cannot be started on {device}: status {found.code} {found.said}".rstrip(),
        hint=f"see that {folder} has room there, and device.workdir=FOLDER otherwise",
    )
