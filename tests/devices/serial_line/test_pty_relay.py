"""The emulated board's cable: nothing is lost to who is there, nothing is kept for who comes later."""

from __future__ import annotations

import fcntl
import os
import random
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator

import pytest

from devices.serial_line.pty_relay import PtyRelay

PATIENCE_S = 30.0


class Board:
    """A pseudo-terminal whose other end is ours."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.path = os.ttyname(slave)
        self.relay = PtyRelay(self.path)
        os.close(slave)

    def close(self) -> None:
        self.relay.close()
        os.close(self.master)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    made.close()


def open_terminal(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def read_exactly(descriptor: int, count: int) -> bytes:
    data = b""
    deadline = time.monotonic() + PATIENCE_S
    while len(data) < count and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            data += os.read(descriptor, count - len(data))
    return data


def silent(descriptor: int) -> bool:
    return not select.select([descriptor], [], [], 0.05)[0]


def until_taken(board: Board) -> None:
    """Wait until the relay has taken all that the board said, and seen that nobody is there."""
    slave = open_terminal(board.path)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and (
        board.relay._attended
        or board.relay._to_reader
        or int.from_bytes(fcntl.ioctl(slave, termios.FIONREAD, b"\0" * 4), sys.byteorder)
    ):
        time.sleep(0.01)
    time.sleep(0.05)
    os.close(slave)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def test_every_byte_passes_both_ways_in_order_at_any_pace(board: Board) -> None:
    data = random.Random(1).randbytes(300_000)
    client = open_terminal(board.relay.path)
    writers = [threading.Thread(target=write_all, args=(end, data)) for end in (client, board.master)]
    for writer in writers:
        writer.start()
    at_board, at_client = b"", b""
    chunks = random.Random(2)
    while len(at_board) < len(data) or len(at_client) < len(data):
        # Now the one, now the other is slow.
        at_board += read_exactly(board.master, min(chunks.randrange(1, 9000), len(data) - len(at_board)))
        at_client += read_exactly(client, min(chunks.randrange(1, 9000), len(data) - len(at_client)))
    for writer in writers:
        writer.join()
    assert (at_board == data, at_client == data) == (True, True)
    os.close(client)


def test_whoever_opens_it_is_there_at_once(board: Board) -> None:
    for i in range(100):
        client = open_terminal(board.relay.path)
        os.write(client, b"ask %03d" % i)
        assert read_exactly(board.master, 7) == b"ask %03d" % i
        os.write(board.master, b"tell %03d" % i)
        assert read_exactly(client, 8) == b"tell %03d" % i
        os.close(client)


def test_what_is_said_to_nobody_is_lost(board: Board) -> None:
    os.write(board.master, b"anybody there?")
    until_taken(board)
    client = open_terminal(board.relay.path)
    assert silent(client)
    os.close(client)
    # More than any buffer holds: the board must not be stopped by it.
    write_all(board.master, bytes(200_000))
    until_taken(board)
    client = open_terminal(board.relay.path)
    os.write(client, b"now")
    assert read_exactly(board.master, 3) == b"now"
    os.write(board.master, b"yes\n")
    assert read_exactly(client, 4) == b"yes\n"
    os.close(client)


def test_who_leaves_takes_what_was_not_read_along(board: Board) -> None:
    for _ in range(5):
        client = open_terminal(board.relay.path)
        os.write(client, b"long story?")
        assert read_exactly(board.master, 11) == b"long story?"
        writer = threading.Thread(target=write_all, args=(board.master, b"story " * 20_000))
        writer.start()
        assert read_exactly(client, 5) == b"story"
        os.close(client)
        writer.join(PATIENCE_S)
        assert not writer.is_alive()
        until_taken(board)
        client = open_terminal(board.relay.path)
        assert silent(client)
        os.close(client)


def test_last_words_arrive(board: Board) -> None:
    client = open_terminal(board.relay.path)
    os.write(client, b"restart%")
    os.close(client)
    assert read_exactly(board.master, 8) == b"restart%"


def test_it_ends_with_the_board_and_may_be_closed_twice() -> None:
    made = Board()
    os.close(made.master)
    made.relay._thread.join(PATIENCE_S)
    assert not made.relay._thread.is_alive()
    made.relay.close()
    made.relay.close()
