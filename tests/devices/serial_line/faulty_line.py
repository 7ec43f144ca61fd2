"""A serial line that cannot be trusted: bytes change, vanish, double and tarry, the port goes away and comes back, and
the board starts again at any moment.

It knows nothing of the protocol, nor of what the host is to make of it.
"""

from __future__ import annotations

import os
import random
import select
import termios
import threading
import time
import tty
from collections import Counter, deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

SPEEDS = {termios.B115200: 115_200, termios.B230400: 230_400, termios.B921600: 921_600}


class BoardEnd(Protocol):
    """What is at the far end."""

    @property
    def baud(self) -> int: ...

    def fileno(self) -> int: ...

    def read(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None: ...

    def close(self) -> None: ...


class PortEnd:
    """A board at a port that somebody else serves; its restart is a command in the middle of whatever goes on."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._descriptor)

    @property
    def baud(self) -> int:
        return 115_200

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> bytes:
        return os.read(self._descriptor, 65_536)

    def write(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def restart(self) -> None:
        self.write(b"%restart%")

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class Faults:
    """How often each kind befalls a chunk of bytes that passes, and how long a pause is."""

    flip: float = 0.0
    """One to three bits."""
    drop: float = 0.0
    """A stretch of it, perhaps all."""
    duplicate: float = 0.0
    """A stretch of it, perhaps all."""
    delay: float = 0.0
    """All that follows waits too."""
    insert: float = 0.0
    """Random bytes from nowhere."""
    disconnect: float = 0.0
    """The port vanishes with all that is on the way."""
    reset: float = 0.0
    """The board starts again."""
    delay_s: tuple[float, float] = (0.002, 0.1)
    away_s: tuple[float, float] = (0.005, 0.06)

    @property
    def rates(self) -> dict[str, float]:
        """By kind."""
        return {field.name: getattr(self, field.name) for field in fields(self) if not field.name.endswith("_s")}


class FaultyLine:
    """Serves ``path``, a symbolic link to the terminal of the moment, until it is closed."""

    def __init__(
        self, board: BoardEnd, path: Path, faults: Faults, seed: int, *, fastest_baud: int | None = None
    ) -> None:
        """With ``fastest_baud``, only rubbish arrives at more than that, or while the two ends differ in speed."""
        self.injected: Counter[str] = Counter()
        self.faults = faults
        self._board = board
        self._path = path
        self._rng = random.Random(seed)
        self._fastest_baud = fastest_baud
        self._queues: dict[str, deque[tuple[float, bytes]]] = {"host": deque(), "board": deque()}
        self._wake, self._waker = os.pipe()
        self._connect()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="faulty line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; the board stays. Raises what went wrong in it."""
        os.close(self._waker)
        self._thread.join()
        os.close(self._wake)
        if self._error is not None:
            raise self._error

    def _connect(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        part = self._path.with_name(f"{self._path.name}.part")
        part.symlink_to(os.ttyname(self._slave))
        part.replace(self._path)

    def _disconnect(self) -> None:
        self._path.unlink()
        os.close(self._master)
        os.close(self._slave)
        for queue in self._queues.values():
            queue.clear()

    def _run(self) -> None:
        try:
            while self._pass_on():
                pass
            self._disconnect()
        except BaseException as error:  # noqa: BLE001 - close() raises it
            self._error = error

    def _pass_on(self) -> bool:
        """Take what has come, and send what is due; False at the end."""
        now = time.monotonic()
        due = min((queue[0][0] for queue in self._queues.values() if queue), default=now + 10)
        readable, _, _ = select.select([self._wake, self._master, self._board], [], [], max(0.0, due - now))
        if self._wake in readable:
            return False
        if self._master in readable:
            self._take("board", os.read(self._master, 65_536))
        elif self._board in readable:
            data = self._board.read()
            if data:
                self._take("host", data)
            else:
                self._board.restart()
        now = time.monotonic()
        for target, queue in self._queues.items():
            while queue and queue[0][0] <= now:
                self._send(target, queue.popleft()[1])
        return True

    def _send(self, target: str, data: bytes) -> None:
        if not self._speeds_agree():
            data = self._rng.randbytes(len(data))
        if target == "board":
            self._board.write(data)
            return
        while data:
            # A host that reads nothing must not hold up the line for ever: a real one loses what comes.
            _, writable, _ = select.select([], [self._master], [], 0.2)
            if not writable:
                return
            data = data[os.write(self._master, data) :]

    def _speeds_agree(self) -> bool:
        if self._fastest_baud is None:
            return True
        baud = SPEEDS.get(termios.tcgetattr(self._slave)[4])
        return baud == self._board.baud and baud <= self._fastest_baud

    def _take(self, target: str, data: bytes) -> None:
        """A chunk on its way to ``target``, and what befalls it."""
        kind = self._fate()
        if kind is not None:
            self.injected[kind] += 1
        release = time.monotonic()
        queue = self._queues[target]
        if kind == "flip":
            changed = bytearray(data)
            for _ in range(self._rng.randint(1, 3)):
                changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
            data = bytes(changed)
        elif kind in ("drop", "duplicate", "insert"):
            start, end = self._stretch(len(data))
            middle = {"drop": b"", "duplicate": 2 * data[start:end], "insert": self._rng.randbytes(end - start)}[kind]
            data = data[:start] + middle + data[end if kind != "insert" else start :]
        elif kind == "delay":
            release += self._rng.uniform(*self.faults.delay_s)
        elif kind == "reset":
            # In the middle of the chunk.
            self._send(target, data[: len(data) // 2])
            self._board.restart()
            return
        elif kind == "disconnect":
            self._disconnect()
            time.sleep(self._rng.uniform(*self.faults.away_s))
            self._connect()
            return
        if data:
            # Nothing overtakes what is on the line already.
            queue.append((max(release, queue[-1][0]) if queue else release, data))

    def _fate(self) -> str | None:
        roll = self._rng.random()
        for kind, rate in self.faults.rates.items():
            if roll < rate:
                return kind
            roll -= rate
        return None

    def _stretch(self, length: int) -> tuple[int, int]:
        """All of it, or a part, mostly a small one."""
        if self._rng.random() < 0.25:
            return 0, length
        start = self._rng.randrange(length)
        return start, min(length, start + self._rng.choice((1, 1, 2, 5, 20)))
