"""The host's side of the protocol against boards that misbehave: the right answer or one clear error."""

from __future__ import annotations

import os
import re
import threading
import tty
import zlib
from collections.abc import Callable, Iterator

import pytest

from devices import protocol
from devices.errors import DeviceError
from devices.protocol import BoardReplyError, SerialSession, open_port

Reply = Callable[[str], bytes]
Connect = Callable[[Reply], SerialSession]


class FakeBoard:
    """A scripted board at the far end of a pseudo-terminal: `reply` gets each command and returns what is sent back."""

    def __init__(self, reply: Reply) -> None:
        self._end, other = os.openpty()
        tty.setraw(other)
        self.path = os.ttyname(other)
        self._other = other
        self._reply = reply
        self.raw_bytes = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        line = b""
        while True:
            try:
                data = os.read(self._end, 4096)
            except OSError:
                return
            for value in data:
                if self.raw_bytes:
                    self.raw_bytes -= 1
                    if self.raw_bytes == 0:
                        os.write(self._end, self._reply("(raw)"))
                elif value == ord("%"):
                    text, line = line.decode("ascii", "replace"), b""
                    answer = self._reply(text)
                    if found := re.match(rb"m-\[Expecting (\d+)", answer):
                        self.raw_bytes = int(found[1])
                    os.write(self._end, answer)
                else:
                    line += bytes([value])

    def close(self) -> None:
        """End the thread before its descriptor is closed: the next board's may get the same number."""
        os.close(self._other)
        self._thread.join(timeout=10)
        os.close(self._end)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    monkeypatch.setattr(protocol, "REPLY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(protocol, "SYNC_TIMEOUT_S", 3.0)
    monkeypatch.setattr(protocol, "INFERENCE_TIMEOUT_S", 1.0)
    opened = []

    def start(reply: Reply) -> SerialSession:
        board = FakeBoard(reply)
        port = open_port(board.path, "fake")
        opened.append((board, port))
        return SerialSession(port, "fake")

    yield start
    for board, port in opened:
        port.close()
        board.close()


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\r\n" for text in (*texts, "m-ready")).encode()


def test_sync_skips_what_a_booting_board_says(connect: Connect) -> None:
    calls = []

    def reply(command: str) -> bytes:
        calls.append(command)
        if len(calls) == 1:
            return b"\xff\x00garbage\r\nm-timestamp-mode-performance\r\nm-init-done\r\nm-ready\r\n"
        return lines("m-name-dut-[tinynas]")

    connect(reply).sync()
    assert len(calls) == 2


def test_an_echo_is_no_part_of_the_reply(connect: Connect) -> None:
    assert connect(lambda command: lines(f"{command}%", "m-ticks-[2,30]")).ticks() == (2, 30)


def test_a_silent_board_is_an_error(connect: Connect) -> None:
    session = connect(lambda command: b"")
    with pytest.raises(DeviceError, match="fake does not answer within 3 s"):
        session.sync()
    with pytest.raises(DeviceError, match="did not answer 'ticks' in time"):
        session.ticks()


def test_a_board_that_restarts_is_an_error(connect: Connect) -> None:
    session = connect(
        lambda command: b"m-warmup-start-0\r\nm-timestamp-mode-performance\r\nm-lap-us-0\r\nm-init-done\r\n"
    )
    with pytest.raises(DeviceError, match="started again during 'infer 1 0'"):
        session.infer(1)


def test_a_refusal_carries_the_boards_own_words(connect: Connect) -> None:
    with pytest.raises(BoardReplyError, match="fake refused 'layers': No input: load one first"):
        connect(lambda command: lines("e-[No input: load one first]")).layers()


@pytest.mark.parametrize(
    "reply",
    [
        lines("m-lap-us-1", "m-lap-us-2", "m-infer-done", "m-resu\x00ts-[0.5]"),
        lines("m-lap-us-1", "m-lap-us-2", "m-results-[0.5,#]"),
        lines("m-lap-us-1", "m-results-[0.5]"),
        lines("m-lap-us-1", "m-lap-us-2x", "m-results-[0.5]"),
    ],
)
def test_a_garbled_reply_is_an_error(connect: Connect, reply: bytes) -> None:
    with pytest.raises(DeviceError, match="try again"):
        connect(lambda command: reply).infer(1)


def test_an_output_that_was_garbled_is_asked_for_again(connect: Connect) -> None:
    good = f"m-output-[0102]-{zlib.crc32(bytes([1, 2])):08x}"
    answers = iter([good.replace("0102", "0103"), good[:-1], good])
    assert connect(lambda command: lines(next(answers))).output() == bytes([1, 2])


def test_an_output_that_stays_garbled_is_an_error(connect: Connect) -> None:
    with pytest.raises(DeviceError, match="sent a corrupt output 3 times"):
        connect(lambda command: lines("m-output-[0102]-00000000")).output()


def test_an_input_that_was_garbled_is_sent_again(connect: Connect) -> None:
    answers = iter(
        [lines("e-[CRC mismatch: load again]"), lines("e-[Bytes are missing: load again]"), lines("m-load-done")]
    )
    commands = []

    def reply(command: str) -> bytes:
        if command == "(raw)":
            return next(answers)
        commands.append(command)
        return b"m-[Expecting 3 bytes]\r\n"

    connect(reply).load(b"abc")
    assert commands == [f"load 3 {zlib.crc32(b'abc'):08x}"] * 3


def test_an_input_that_stays_garbled_is_an_error(connect: Connect) -> None:
    def reply(command: str) -> bytes:
        return lines("e-[CRC mismatch: load again]") if command == "(raw)" else b"m-[Expecting 3 bytes]\r\n"

    with pytest.raises(BoardReplyError, match="CRC mismatch"):
        connect(reply).load(b"abc")


def test_an_input_of_the_wrong_size_is_sent_once_only(connect: Connect) -> None:
    commands = []

    def reply(command: str) -> bytes:
        commands.append(command)
        return lines("e-[This model takes 64 bytes]")

    with pytest.raises(BoardReplyError, match="This model takes 64 bytes"):
        connect(reply).load(b"abc")
    assert len(commands) == 1


def test_a_port_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"cannot open the port /dev/no-such-port of the board bench: .* plugged in"):
        open_port("/dev/no-such-port", "bench")
