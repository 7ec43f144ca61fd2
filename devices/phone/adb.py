"""Talks to a phone through the user's own ``adb``, so that no byte is taken for what it is not.

Neither adb nor its exit code can be trusted with a figure: old ones return 0 for a shell whose phone vanished, a
connection that drops leaves half an output, and the protocol itself no longer sums up what it carries. So every command
is checked on the phone before it runs, and its output comes back with a name of its own, its exit code, its length and
its CRC, which the phone took from a file; what does not agree is an `AdbFaultError`, and asking again is safe.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devices.errors import DeviceError
from devices.host.children import start_child
from devices.host.closing import Closing

PHONE_FOLDER = "/data/local/tmp"
"""Where the shell's user may write and run programs."""
PATIENCE_S = 30.0
"""For whatever should take no time. A phone that was started again is back within twice of it."""
LISTING_S = 5.0
"""For the list of phones, which the server makes without asking any of them."""
SLOWEST_BYTES_PER_S = 250_000
LENIENCE = 3.0
"""How much longer than expected something may take."""
SERVER_TIMEOUT_S = 20.0
MOMENT_S = 3.0
"""How long one that was just connected may take."""
POLL_S = 0.1
DEFAULT_SERVER_PORT = 5037

_NETWORK_SERIAL = re.compile(r"\[?[\w.:-]+\]?:\d{1,5}")


class AdbFaultError(DeviceError):
    """Something between this machine and the phone went wrong; to try again may help."""


class AdbTimeoutError(AdbFaultError):
    """Adb waits for something that does not come."""


class CommandFailedError(DeviceError):
    """A command ended on the phone with another exit code than 0."""


@dataclass(frozen=True)
class AdbDevice:
    """One line of ``adb devices -l``."""

    serial: str
    state: str
    """``device`` when it can be used; else ``offline``, ``unauthorized``, ``no permissions``, …"""
    description: str
    """Product, model and port, as adb tells them."""


@dataclass(frozen=True)
class Finished:
    """How a command ended on the phone, as the phone itself said."""

    output: str
    """Standard output and error."""
    exit_code: int


def find_adb() -> str:
    """The path of adb. Raises DeviceError when it is not installed."""
    if path := shutil.which("adb"):
        return path
    raise DeviceError(
        "adb, which talks to phones, was not found; install it (Debian: apt install adb; elsewhere the Android SDK's "
        "platform-tools) and put it on the PATH"
    )


def cksum(data: bytes) -> int:
    """The CRC of the POSIX command ``cksum``: polynomial 0x04C11DB7, highest bit first, the length appended.

    zlib's goes by the same polynomial with every byte and the result mirrored.
    """
    length = len(data).to_bytes((len(data).bit_length() + 7) // 8, "little")
    mirrored = (data + length).translate(_MIRRORED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2) ^ 0xFFFFFFFF


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def list_devices() -> tuple[AdbDevice, ...]:
    """Every phone that adb knows of. Raises DeviceError when adb is missing or does not work."""
    server = _Server.shared()
    try:
        return server.devices()
    finally:
        server.release()


class AdbPhone(Closing):
    """One phone. Use it in a ``with`` statement, or close it: an adb server that had to be started ends with it."""

    def __init__(self, serial: str = "", *, patience_s: float = PATIENCE_S) -> None:
        """Find the phone by its serial number or ``HOST:PORT``; "" is the only one that is connected.

        Raises DeviceError, with what to do, when it is not there or not ready.
        """
        self._server = _Server.shared()
        self._connected = False
        self._closed = False
        self._is_stuck = False
        self.patience_s = patience_s
        try:
            self.serial = serial or self._only_serial()
            self.wait_until_ready(patient=False)
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self, *, patient: bool = True) -> bool:
        """Wait for a phone that went away, and say whether it was away; the impatient are told at once what is wrong.

        Raises DeviceError when it does not come back, with what to do.
        """
        begun = time.monotonic()
        self._loosen()
        rounds = 0
        while True:
            rounds += 1
            found: AdbDevice | None = None
            with suppress(AdbFaultError):
                found = next((device for device in self._server.devices() if device.serial == self.serial), None)
                if found is not None and found.state == "device":
                    return rounds > 1
                self._bring_back(found, rounds)
            # One that was just connected or plugged in, or whose server was just started, takes a moment.
            is_coming = found is None or found.state in ("offline", "connecting", "authorizing")
            limit_s = 2 * self.patience_s if patient else MOMENT_S if is_coming else 0.0
            if time.monotonic() - begun >= limit_s:
                raise self._not_ready(found)
            time.sleep(min(POLL_S * rounds, 1.0))

    def shell(self, script: str, *, takes_s: float = 0.0, check: bool = True) -> Finished:
        """Run a shell script on the phone; in it, ``$D`` is PHONE_FOLDER, ``$S`` is ``/sys`` and ``$P`` is ``/proc``.

        ``takes_s`` is how long it runs, roughly.

        Raises AdbFaultError when it is not certain that it ran and that this is its output, and, unless ``check`` is
        false, CommandFailedError when it ended with another exit code than 0.
        """
        name = secrets.token_hex(6)
        finished = self._run(["shell", _framed(script, name)], takes_s)
        result = _unframed(finished.stdout, name)
        if result is None:
            raise self._shell_fault(finished, name)
        if check and result.exit_code != 0:
            raise CommandFailedError(
                f"the phone {self.serial} could not do '{script}' (exit code {result.exit_code}): "
                f"{_end_of(result.output)}"
            )
        return result

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the phone. Its content there is not checked. Raises AdbFaultError."""
        self._transfer(["push", str(source), target], source.stat().st_size)

    def pull(self, source: str, target: Path, size: int) -> None:
        """Copy a file of ``size`` bytes from the phone. Its content is not checked. Raises AdbFaultError."""
        self._transfer(["pull", source, str(target)], size)

    def version(self) -> str:
        """What adb calls itself."""
        lines = self._server.run(["version"], PATIENCE_S).stdout.decode(errors="replace").splitlines()
        return ", ".join(line.strip() for line in lines[:2])

    def close(self) -> None:
        """Let go of the phone; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._connected:
            with suppress(DeviceError):
                self._server.run(["disconnect", self.serial], PATIENCE_S)
        self._server.release()

    def _only_serial(self) -> str:
        devices = self._server.devices()
        if len(devices) == 1:
            return devices[0].serial
        if not devices:
            raise DeviceError(
                "adb finds no phone; connect one, allow USB debugging in its developer options, and accept this "
                "computer's key on its screen"
            )
        names = ", ".join(device.serial for device in devices)
        raise DeviceError(f"adb finds {len(devices)} phones: {names}; say which with --board adb:SERIAL")

    def _bring_back(self, found: AdbDevice | None, rounds: int) -> None:
        """Do what a person would do by hand."""
        if self._is_on_network():
            if found is not None and found.state == "offline" and rounds % 3 == 1:
                self._server.run(["disconnect", self.serial], PATIENCE_S)
                found = None
            if found is None:
                self._server.run(["connect", self.serial], PATIENCE_S)
                self._connected = True
        elif found is not None and found.state == "offline" and rounds % 5 == 0:
            self._server.run(["reconnect", "offline"], PATIENCE_S)

    def _not_ready(self, found: AdbDevice | None) -> DeviceError:
        try:
            others = {device.serial: device for device in self._server.devices()}
        except AdbFaultError as error:
            return DeviceError(f"adb cannot say whether the phone {self.serial} is there: {error}")
        found = found or others.get(self.serial)
        if found is None:
            listed = ", ".join(f"{device.serial} ({device.state})" for device in others.values())
            return DeviceError(
                f"adb finds no phone {self.serial}{f'; it finds {listed}' if listed else ''}; check its cable or "
                "address, and that USB debugging is on in its developer options"
            )
        advice = _ADVICE.get(found.state, "start it normally and connect it again")
        return DeviceError(f"the phone {self.serial} is not ready: adb says '{found.state}'; {advice}")

    def _transfer(self, command: Sequence[str], size: int) -> None:
        finished = self._run(command, size / SLOWEST_BYTES_PER_S)
        if finished.returncode != 0:
            said = _end_of((finished.stdout + b"\n" + finished.stderr).decode(errors="replace"))
            raise AdbFaultError(f"adb could not {command[0]} a file to or from the phone {self.serial}: {said}")

    def _run(self, command: Sequence[str], takes_s: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return self._server.run(["-s", self.serial, *command], self.patience_s + LENIENCE * takes_s)
        except AdbTimeoutError:
            self._is_stuck = True
            raise

    def _loosen(self) -> None:
        """Make adb drop a connection on which nothing comes any more."""
        if not self._is_stuck:
            return
        self._is_stuck = False
        command = ["disconnect", self.serial] if self._is_on_network() else ["-s", self.serial, "reconnect"]
        with suppress(AdbFaultError):
            self._server.run(command, self.patience_s)

    def _is_on_network(self) -> bool:
        return _NETWORK_SERIAL.fullmatch(self.serial) is not None

    def _shell_fault(self, finished: subprocess.CompletedProcess[bytes], name: str) -> AdbFaultError:
        refused = re.search(rb"(?m)^__tn_refused=" + name.encode() + rb"(.*)$", finished.stdout)
        if refused is not None and not refused[1].strip():
            return AdbFaultError(
                f"the phone {self.serial} has no cksum, without which its answers cannot be trusted; it needs "
                "Android 6 or later"
            )
        if refused is not None:
            return AdbFaultError(f"a command reached the phone {self.serial} damaged; check its cable and try again")
        said = _end_of(finished.stderr.decode(errors="replace"))
        return AdbFaultError(
            f"the phone {self.serial} did not answer in full: of {len(finished.stdout)} bytes, the exit code or the "
            f"checksum is missing or wrong{f' ({said})' if said else ''}; check its cable and try again"
        )


_ADVICE = {
    "unauthorized": "accept this computer's key on the phone's screen, or revoke all USB debugging authorizations "
    "there and connect it again",
    "authorizing": "accept this computer's key on the phone's screen",
    "offline": "plug it in again, or switch USB debugging off and on",
    "connecting": "wait a moment, or plug it in again",
    "no permissions": "allow your user to use it: install Debian's android-sdk-platform-tools-common (udev rules), "
    "join the group plugdev, and plug it in again",
    "recovery": "start it normally: adb reboot",
    "sideload": "start it normally: adb reboot",
    "rescue": "start it normally: adb reboot",
    "bootloader": "start it normally: fastboot reboot",
}


def _framed(script: str, name: str) -> str:
    """A shell command that runs ``script`` if it arrived unharmed, and says what came of it so that it can be checked.

    The folders are set outside of what is checked: a stand-in for a phone puts others there.
    """
    assert "\\" not in script  # which echo of some shells would take for something else
    framed = (
        f"f=$D/.tinynas-{name}; (\n{script}\n) >$f 2>&1 </dev/null; r=$?; echo >>$f; "
        f"echo __tn_ended=$r-{name} >>$f; echo __tn={name} $(cksum <$f); cat $f; rm -f $f"
    )
    checked = framed.encode() + b"\n"
    return (
        f'D={PHONE_FOLDER}; S=/sys; P=/proc; s={shlex.quote(framed)}; c=$(echo "$s" | cksum); '
        f"if [ \"$c\" = '{cksum(checked)} {len(checked)}' ] && [ \"$D $S $P\" = '{PHONE_FOLDER} /sys /proc' ]; then "
        f'eval "$s"; else echo __tn_refused={name} $c; r=125; fi; (exit $r); echo __rc=$?'
    )


def _unframed(received: bytes, name: str) -> Finished | None:
    """What a framed command says; None when any of it is missing or damaged. A terminal may have been in between."""
    for end in (b"\n", b"\r\n", b"\r\r\n"):
        data = received.replace(end, b"\n")
        head = re.search(rb"(?m)^__tn=" + name.encode() + rb" (\d+) (\d+)\n", data)
        if head is None:
            continue
        body, rest = data[head.end() : head.end() + int(head[2])], data[head.end() + int(head[2]) :]
        tail = re.search(rb"\n__tn_ended=(\d+)-" + name.encode() + rb"\n\Z", body)
        code = re.match(rb"__rc=(\d+)\n", rest)
        if len(body) == int(head[2]) and cksum(body) == int(head[1]) and tail and code and tail[1] == code[1]:
            return Finished(body[: tail.start()].decode("utf-8", "replace"), int(tail[1]))
    return None


def _end_of(text: str) -> str:
    return " ".join(text.split())[-300:]


class _Server:
    """The adb server: the user's own where one runs, else one that ends with this process, however that ends."""

    _mutex = threading.RLock()
    _shared: _Server | None = None

    def __init__(self) -> None:
        self._adb = find_adb()
        self._users = 0
        self._own: subprocess.Popen[bytes] | None = None
        self._started_by_adb = False

    @classmethod
    def shared(cls) -> _Server:
        """The one of this process; give it back with ``release``. Raises DeviceError without adb."""
        with cls._mutex:
            if cls._shared is None:
                cls._shared = cls()
            cls._shared._users += 1
            return cls._shared

    def release(self) -> None:
        """The last user ends a server that was not the user's; what others started stays."""
        with self._mutex:
            self._users -= 1
            if self._users:
                return
            type(self)._shared = None
            self._end_own()
            if self._started_by_adb and _is_listening():
                self._run(["kill-server"], PATIENCE_S)

    def run(self, arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        """Run ``adb`` with ``arguments``, with a server. Raises AdbFaultError when it does not end in time."""
        self._ensure()
        finished = self._run(arguments, timeout_s)
        # Between the two calls the server may have ended; then adb itself started one, which would stay.
        if b"daemon started successfully" in finished.stderr:
            self._started_by_adb = True
        return finished

    def devices(self) -> tuple[AdbDevice, ...]:
        """What ``adb devices`` lists. Raises AdbFaultError."""
        command = ["devices", "-l"]
        try:
            finished = self.run(command, LISTING_S)
        except AdbTimeoutError:
            # So the server itself hangs, or this machine is very busy: ours is replaced, the user's gets its time.
            with self._mutex:
                self._end_own()
            finished = self.run(command, PATIENCE_S)
        text = finished.stdout.decode(errors="replace")
        if finished.returncode != 0 or "List of devices attached" not in text:
            raise AdbFaultError(f"adb cannot list its phones: {_end_of(finished.stderr.decode(errors='replace'))}")
        lines = text.partition("List of devices attached")[2].splitlines()
        return tuple(
            AdbDevice(found[1], found[2], found[3].strip())
            for found in map(_DEVICE_LINE.fullmatch, lines)
            if found is not None
        )

    def _run(self, arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._adb, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            what = next((word for word in arguments if word in _VERBS), arguments[0])
            raise AdbTimeoutError(
                f"'adb {what}' did not end within {timeout_s:.0f} s; see whether the phone hangs, and connect it again"
            ) from error
        except OSError as error:
            raise DeviceError(f"{self._adb} cannot be started: {error.strerror}; install adb again") from error

    def _ensure(self) -> None:
        """Start a server where none listens. One of another machine, or at a socket with a name, is the user's."""
        if os.environ.get("ADB_SERVER_SOCKET") or os.environ.get("ANDROID_ADB_SERVER_ADDRESS"):
            return
        with self._mutex:
            if _is_listening():
                return
            self._end_own()
            try:
                self._own = start_child(
                    [self._adb, "nodaemon", "server"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise DeviceError(f"{self._adb} cannot be started: {error.strerror}; install adb again") from error
            deadline = time.monotonic() + SERVER_TIMEOUT_S
            # One that ends at once found that another process was quicker.
            while not _is_listening() and self._own.poll() is None:
                if time.monotonic() > deadline:
                    self._end_own()
                    raise DeviceError(
                        f"the adb server did not start within {SERVER_TIMEOUT_S:.0f} s; run adb start-server to see why"
                    )
                time.sleep(POLL_S / 5)

    def _end_own(self) -> None:
        if self._own is not None:
            self._own.kill()
            self._own.wait()
            self._own = None


_VERBS = ("shell", "push", "pull", "devices", "connect", "disconnect", "reconnect", "version", "kill-server")
_DEVICE_LINE = re.compile(r"(\S+)\s+(no permissions|\S+)(.*)")


def _server_port() -> int:
    try:
        return int(os.environ.get("ANDROID_ADB_SERVER_PORT", ""))
    except ValueError:
        return DEFAULT_SERVER_PORT


def _is_listening() -> bool:
    try:
        socket.create_connection(("localhost", _server_port()), timeout=PATIENCE_S).close()
    except OSError:
        return False
    return True
