"""A pseudo-terminal that behaves as the cable of a real board does, whoever opens and leaves it."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import tty

CHUNK_BYTES = 4096
ABSENCE_S = 0.005
"""How often to look whether somebody has opened the port: a hung-up terminal cannot be waited for."""


class PtyRelay:
    """Passes bytes between the pseudo-terminal of an emulated board and one of its own, for other tools to open.

    QEMU notices only within a second that its terminal was opened, answers only then what somebody before had asked,
    and keeps for the next what the last one did not read. Here the board's side stays open. Bytes for a board reach it
    at once, also when their sender has gone. What a board says while nobody has the port open is lost, as on a real
    line, and so is what a reader left behind; to a reader who is there but slow, nothing is lost.
    """

    def __init__(self, board_path: str) -> None:
        """Open the board's terminal, and one to ``path`` for others. Raises OSError when that is impossible."""
        self._board = os.open(board_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._ours, theirs = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(self._ours, False)
        self.path = os.ttyname(theirs)
        os.close(theirs)
        self._wake, self._waker = os.pipe()
        self._to_board, self._to_reader = b"", b""
        self._attended = False
        self._thread = threading.Thread(target=self._relay, name="pty-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and hang up on both sides."""
        if self._waker < 0:
            return
        os.write(self._waker, b"\0")
        self._thread.join()
        for descriptor in (self._wake, self._waker, self._board, self._ours):
            os.close(descriptor)
        self._waker = -1

    def _relay(self) -> None:
        # The board's terminal hangs up when QEMU ends; nothing is left to do then.
        with contextlib.suppress(OSError):
            while self._wait():
                self._take_from_reader()
                self._take_from_board()
                self._to_board = _write(self._board, self._to_board)
                self._to_reader = _write(self._ours, self._to_reader) if self._attended else b""

    def _wait(self) -> bool:
        """Wait until there is something to do; returns whether to go on."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        # Whoever does not take what was said last is told no more.
        reading = 0 if self._to_reader else select.POLLIN
        poll.register(self._board, reading | (select.POLLOUT if self._to_board else 0))
        if self._attended:
            taking = 0 if self._to_board else select.POLLIN
            poll.register(self._ours, taking | (select.POLLOUT if self._to_reader else 0))
        events = dict(poll.poll(None if self._attended else ABSENCE_S * 1000))
        if events.get(self._board, 0) & (select.POLLHUP | select.POLLERR):
            return False
        return self._wake not in events

    def _take_from_reader(self) -> None:
        present = not _hung_up(self._ours)
        if self._attended and not present:
            self._forget_reader()
        self._attended = present
        if not self._to_board:
            self._to_board = _read(self._ours)

    def _forget_reader(self) -> None:
        """Drop what it left unread, which the next one would take for an answer."""
        with contextlib.suppress(OSError):
            theirs = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                termios.tcflush(theirs, termios.TCIFLUSH)
                tty.setraw(theirs)
            finally:
                os.close(theirs)

    def _take_from_board(self) -> None:
        if not self._to_reader:
            self._to_reader = _read(self._board)


def _hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _read(descriptor: int) -> bytes:
    """What is there; nothing where nothing is, or where all have closed a terminal."""
    try:
        return os.read(descriptor, CHUNK_BYTES)
    except OSError:
        return b""


def _write(descriptor: int, data: bytes) -> bytes:
    """Write what fits; returns the rest."""
    if not data:
        return b""
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
