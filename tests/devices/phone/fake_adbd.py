"""A phone without the phone: adbd's wire protocol over TCP, with a folder for a file system and /bin/sh for a shell.

The real adb connects to it (``adb connect 127.0.0.1:PORT``). Protocol: ``packages/modules/adb/protocol.txt``,
``SYNC.TXT`` and ``shell_protocol.h`` of the Android Open Source Project. Nothing here shares code with what it tests.
"""

from __future__ import annotations

import os
import queue
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VERSION = 0x01000001
MAX_DATA = 256 * 1024
SHELL_CHUNK = 1024
MOUNTS = ("/data/local/tmp", "/sys", "/proc")
"""Paths that lie in the stand-in's folder; /proc only where the test puts one there."""

AUTH_TOKEN = 1
STDOUT, STDERR, EXIT = 1, 2, 3


class DroppedError(Exception):
    """The connection is to be cut here."""


@dataclass
class Faults:
    """What goes wrong, and how often. Called from several threads."""

    seed: int = 0
    rate: float = 0.0
    """Of faults per stream, which is one adb command."""
    kinds: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    on_server_kill: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self) -> StreamFault | None:
        with self._lock:
            if not self.kinds or self._random.random() >= self.rate:
                return None
            kind = self._random.choice(self.kinds)
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return StreamFault(kind, random.Random(self._random.getrandbits(64)))


@dataclass
class StreamFault:
    """One fault for one stream."""

    kind: str
    random: random.Random


@dataclass
class FakePhone:
    """The stand-in's settings. ``folder`` holds ``data/local/tmp``, ``sys`` and ``bin``, where commands are found."""

    folder: Path
    features: tuple[str, ...] = ("shell_v2", "cmd", "fixed_push_mkdir")
    """``shell_v2`` or not is what decides how shells talk."""
    mood: str = "well"
    """``well``, or ``unauthorized`` (never accepts a key)."""
    faults: Faults = field(default_factory=Faults)
    boot_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    commands: list[str] = field(default_factory=list)
    """Every shell command that came, as it came."""
    port: int = 0

    def __post_init__(self) -> None:
        for name in ("data/local/tmp", "sys", "bin", "proc/sys/kernel/random"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._connections: set[socket.socket] = set()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._listener: socket.socket | None = None
        self._timers: list[threading.Timer] = []
        self._write_boot_id()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakePhone:
        self.appear()
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self.vanish()
        self._kill_all()

    def appear(self) -> None:
        """Listen; on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def vanish(self, back_after_s: float | None = None, *, restarted: bool = False) -> None:
        """Cut every connection and stop listening; perhaps come back, perhaps having started again."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()
        if restarted:
            self._kill_all()
            self.boot_id = str(uuid.uuid4())
            self._write_boot_id()
        if back_after_s is not None:
            timer = threading.Timer(back_after_s, self.appear)
            self._timers.append(timer)
            timer.start()

    def cut(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def path(self, name: str) -> Path:
        """Where a file of the phone lies."""
        return Path(self.mapped(name))

    def mapped(self, text: str) -> str:
        """``text`` with the phone's folders replaced by those of the stand-in."""
        for mount in MOUNTS:
            if mount != "/proc" or (self.folder / "proc/cpuinfo").exists():
                text = re.sub(rf"(?<![\w$]){mount}\b", str(self.folder) + mount, text)
        return text

    def install(self, name: str, script: str) -> None:
        """Put an executable on the phone: a shell script in ``bin``, or at an absolute path."""
        path = self.path(name) if name.startswith("/") else self.folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def run(self, command: str, *, merged: bool) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": "/",
            "BOOT_ID": self.boot_id,
            "PHONE": str(self.folder),
        }
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.mapped(command)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else subprocess.PIPE,
            start_new_session=True,
        )
        self._processes = {p for p in self._processes if p.poll() is None} | {process}
        return process

    def _kill_all(self) -> None:
        """What still runs; the number of a process that has ended may be another's by now."""
        for process in list(self._processes):
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _write_boot_id(self) -> None:
        (self.folder / "proc/sys/kernel/random/boot_id").write_text(self.boot_id + "\n")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Transport(self, connection).serve()
        except (OSError, DroppedError, EOFError):
            pass
        finally:
            self._connections.discard(connection)
            connection.close()


class _Transport:
    """One connection of adb's server: many streams over one socket."""

    def __init__(self, phone: FakePhone, connection: socket.socket) -> None:
        self.phone = phone
        self._socket = connection
        self._write_lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0

    def serve(self) -> None:
        try:
            while True:
                command, arg0, arg1, data = self._read_message()
                if command == b"CNXN":
                    self._greet()
                elif command == b"AUTH" and arg0 != 3:
                    self.send(b"AUTH", AUTH_TOKEN, 0, os.urandom(20))
                elif command == b"OPEN":
                    self._open(arg0, data)
                elif command in (b"OKAY", b"WRTE", b"CLSE") and arg1 in self._streams:
                    self._streams[arg1].put(command, data)
        finally:
            for stream in self._streams.values():
                stream.put(b"CLSE", b"")

    def send(self, command: bytes, arg0: int, arg1: int, data: bytes = b"", fault: StreamFault | None = None) -> None:
        word = struct.unpack("<I", command)[0]
        header = struct.pack("<6I", word, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, word ^ 0xFFFFFFFF)
        message = bytearray(header + data)
        if fault is not None and fault.kind == "flip header":
            message[fault.random.randrange(24)] ^= 1 << fault.random.randrange(8)
        with self._write_lock:
            self._socket.sendall(message)

    def cut(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        raise DroppedError

    def _greet(self) -> None:
        if self.phone.mood == "unauthorized":
            self.send(b"AUTH", AUTH_TOKEN, 0, os.urandom(20))
            return
        banner = "device::ro.product.name=standin;ro.product.model=Stand-in;ro.product.device=standin;"
        self.send(b"CNXN", VERSION, MAX_DATA, (banner + "features=" + ",".join(self.phone.features)).encode())

    def _open(self, remote: int, data: bytes) -> None:
        self._last_id += 1
        stream = _Stream(self, self._last_id, remote, data.rstrip(b"\0"))
        self._streams[stream.local] = stream
        threading.Thread(target=self._run, args=(stream,), daemon=True).start()

    def _run(self, stream: _Stream) -> None:
        try:
            stream.serve()
        except (OSError, DroppedError, EOFError):
            pass
        finally:
            self._streams.pop(stream.local, None)

    def _read_message(self) -> tuple[bytes, int, int, bytes]:
        word, arg0, arg1, length, _, magic = struct.unpack("<6I", self._read(24))
        if word ^ magic != 0xFFFFFFFF:
            raise EOFError
        return struct.pack("<I", word), arg0, arg1, self._read(length)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


class _Stream:
    """One service: a shell command, or a file transfer."""

    def __init__(self, transport: _Transport, local: int, remote: int, service: bytes) -> None:
        self.local = local
        self._transport = transport
        self._phone = transport.phone
        self._remote = remote
        self._fault = self._phone.faults.draw()
        self._service = service
        self._incoming: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self._received = b""

    def put(self, command: bytes, data: bytes) -> None:
        self._incoming.put((command, data))

    def serve(self) -> None:
        kind = None if self._fault is None else self._fault.kind
        if kind == "server" and self._phone.faults.on_server_kill is not None:
            assert self._fault is not None
            threading.Timer(self._fault.random.uniform(0, 0.1), self._phone.faults.on_server_kill).start()
        if kind == "flip request":
            self._service = self._flipped(self._service)
        self._send(b"OKAY")
        name, _, argument = self._service.partition(b":")
        if name.split(b",")[0] == b"shell":
            self._shell(argument.decode("utf-8", "surrogateescape"), is_v2=b"v2" in name.split(b","))
        elif name == b"sync":
            self._sync()
        self._send(b"CLSE")

    def _send(self, command: bytes, data: bytes = b"") -> None:
        fault = self._fault if command == b"WRTE" else None
        self._transport.send(command, self.local, self._remote, data, fault)

    def _write(self, data: bytes) -> None:
        """Write, and wait until the other side is ready for more."""
        for start in range(0, len(data), MAX_DATA):
            self._send(b"WRTE", data[start : start + MAX_DATA])
            while True:
                command, received = self._incoming.get()
                if command == b"OKAY":
                    break
                if command == b"CLSE":
                    raise EOFError
                self._received += received
                self._send(b"OKAY")

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            command, data = self._incoming.get()
            if command == b"CLSE":
                raise EOFError
            if command == b"WRTE":
                if self._fault is not None and self._fault.kind == "flip request":
                    data = self._flipped(data)
                self._received += data
                self._send(b"OKAY")
        data, self._received = self._received[:count], self._received[count:]
        return data

    def _flipped(self, data: bytes) -> bytes:
        assert self._fault is not None
        changed = bytearray(data)
        if changed:
            changed[self._fault.random.randrange(len(changed))] ^= 1 << self._fault.random.randrange(8)
        return bytes(changed)

    def _shell(self, command: str, *, is_v2: bool) -> None:
        command = command.partition("\0")[0]
        self._phone.commands.append(command)
        self._break_early()
        process = self._phone.run(command, merged=not is_v2)
        assert process.stdout is not None
        if is_v2:
            assert process.stderr is not None
            out, err = process.communicate()
            for piece in self._damaged(out):
                self._write(struct.pack("<BI", STDOUT, len(piece)) + piece)
            if err:
                self._write(struct.pack("<BI", STDERR, len(err)) + err)
            self._write(struct.pack("<BIB", EXIT, 1, process.returncode & 0xFF))
        else:
            out, _ = process.communicate()
            for piece in self._damaged(out):
                self._write(piece.replace(b"\n", b"\r\n"))  # as a terminal does

    def _break_early(self) -> None:
        """Faults before or beside the command: it may run to its end all the same."""
        fault, phone = self._fault, self._phone
        if fault is None:
            return
        if fault.kind == "cut":
            threading.Timer(fault.random.uniform(0, 0.05), phone.cut).start()
        elif fault.kind == "vanish":
            back_after_s = fault.random.uniform(0.05, 0.3)
            threading.Timer(0.0, phone.vanish, (back_after_s,), {"restarted": fault.random.random() < 0.3}).start()
            time.sleep(0.02)
        elif fault.kind == "delay":
            time.sleep(fault.random.uniform(0.0, 0.3))

    def _damaged(self, out: bytes) -> Iterator[bytes]:
        """The output in pieces, with what the fault does to it."""
        fault = self._fault
        kind = None if fault is None else fault.kind
        if fault is not None and out:
            lines = out.splitlines(keepends=True)
            at = fault.random.randrange(len(lines))
            if kind == "truncate":
                out = out[: fault.random.randrange(len(out))]
            elif kind == "flip":
                out = self._flipped(out)
            elif kind == "no exit code":
                out = b"".join(line for line in lines if not line.startswith(b"__rc="))
            elif kind == "garbage":
                out = b"".join([*lines[:at], b"W/linker: count=50 curr=1(all same)\n", *lines[at:]])
            elif kind == "repeat":
                out = b"".join([*lines[: at + 1], *lines[at:]])
            elif kind == "lose":
                out = b"".join([*lines[:at], *lines[at + 1 :]])
            elif kind == "digit":
                digits = [i for i, byte in enumerate(out) if 0x30 <= byte <= 0x39]
                if digits:
                    i = fault.random.choice(digits)
                    out = out[:i] + bytes([fault.random.choice(b"0123456789")]) + out[i + 1 :]
        for start in range(0, len(out), SHELL_CHUNK):
            if kind == "cut in output" and fault is not None and fault.random.random() < 0.5:
                self._transport.cut()
            piece = out[start : start + SHELL_CHUNK]
            yield piece
            if kind == "repeat message":
                yield piece

    def _sync(self) -> None:
        self._break_early()
        while True:
            kind, length = struct.unpack("<4sI", self._read(8))
            argument = self._read(length).decode("utf-8", "surrogateescape")
            if kind == b"QUIT":
                return
            if kind == b"STAT":
                self._write(b"STAT" + struct.pack("<3I", *self._stat(argument)))
            elif kind == b"SEND":
                self._receive_file(argument)
            elif kind == b"RECV":
                self._send_file(argument)
            else:
                self._fail(f"unknown request {kind!r}")

    def _stat(self, name: str) -> tuple[int, int, int]:
        try:
            found = self._phone.path(name).stat()
        except OSError:
            return 0, 0, 0
        return found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)

    def _receive_file(self, argument: str) -> None:
        name, _, mode = argument.rpartition(",")
        path = self._phone.path(name)
        content = b""
        while True:
            kind, length = struct.unpack("<4sI", self._read(8))
            if kind == b"DONE":
                break
            if kind != b"DATA":
                self._fail("the transfer is damaged")
                return
            content += self._read(length)
        try:
            path.write_bytes(content)
            path.chmod(int(mode) & 0o777)
        except (OSError, ValueError) as error:
            self._fail(f"couldn't create file: {error}")
            return
        self._write(b"OKAY" + struct.pack("<I", 0))

    def _send_file(self, name: str) -> None:
        try:
            content = self._phone.path(name).read_bytes()
        except OSError:
            self._fail("No such file or directory")
            return
        if self._fault is not None and self._fault.kind in ("flip", "digit"):
            content = self._flipped(content)
        if self._fault is not None and self._fault.kind == "truncate":
            content = content[: len(content) // 2]
        for start in range(0, len(content), 64 * 1024):
            chunk = content[start : start + 64 * 1024]
            self._write(b"DATA" + struct.pack("<I", len(chunk)) + chunk)
        self._write(b"DONE" + struct.pack("<I", 0))

    def _fail(self, reason: str) -> None:
        text = reason.encode()
        self._write(b"FAIL" + struct.pack("<I", len(text)) + text)
