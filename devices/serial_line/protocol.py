"""Host side of the serial protocol of ``firmware/harness`` (docs/protocol.md), over a line that cannot be trusted.

Every command is sent inside of a ``check``: it and its reply carry a number of their own and a CRC-32, so that what was
lost, changed, doubled or late on the way is noticed and asked for again, and nothing else is ever used. What the board
forgets when it restarts, it is told again: an inference is repeated from its load. Patience is for silence, not for
the whole of a reply; it follows the round trips that the line has shown (as TCP's does, RFC 6298), and doubles with
every attempt that ends in silence, so that neither a quick line waits nor a slow one is given up.
"""

from __future__ import annotations

import re
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TypeVar

from devices.errors import DeviceError
from devices.serial_line.ports import BAUD, Port, PortGoneError, ResetMode

MAX_REPLY_BYTES = 1 << 20
BAUDS = (BAUD, 230_400, 460_800, 921_600, 1_000_000, 2_000_000)
"""Where a board may have been left by a host that was killed."""
BAUD_TRIAL_S = 1.0
"""After this, a board that hears nothing at its new speed is back at the old one."""
MOST_PIECE_BYTES = 1024
LEAST_PIECE_BYTES = 32
PIECES_BEFORE_LARGER = 8
SWALLOW_S = 0.15
"""The board's ``QUIET_MS`` after raw data that was not right, with something to spare."""
MOST_FAULTS = 5
MOST_FAILED_BAUDS = 2
ATTEMPTS_AT_SPEED = 10
"""Of one command before the line is taken to be too bad for a higher speed than it started at."""
SLACK = 4.0
"""How much longer than usual an inference may take: an emulator shares its processor."""

_CHECK = re.compile(rb"m-check-\[(\d{1,9}),([\da-f]{8})\]")
_REPLY_START = re.compile(rb"m-|e-\[")
_FORGOTTEN = re.compile(r"load again|load it again|load one first|load from the start|infer first")
"""Refusals that end when the input is loaded again; every other one stays."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try."""

    first_s: float = 1.0
    """For a reply before any was timed."""
    floor_s: float = 0.25
    """For a reply, at the least, on top of what its bytes take at the line's speed."""
    ceiling_s: float = 10.0
    quiet_s: float = 0.05
    """After ``m-ready`` for what should have come before it."""
    sync_s: float = 15.0
    """Without any answer before a board is given up."""
    first_inference_s: float = 10.0
    """Within an inference before any was timed."""
    inference_s: float = 120.0
    """Within an inference, at the most: emulating a large network takes seconds."""
    attempts: int = 100
    """Of one command before a line is given up on which replies come, but not this one."""
    silences: int = 15
    """Among them."""


DEFAULT_PATIENCE = Patience()


class BoardReplyError(DeviceError):
    """The board understood a command and refused it."""


class OtherModelError(DeviceError):
    """The board runs another model than before: it was exchanged, or written by somebody else."""


class NoAnswerError(DeviceError):
    """Nothing answers at the port."""


class ForeignFirmwareError(DeviceError):
    """Something answers, but not the harness, or one too old for checked commands."""


@dataclass(frozen=True)
class BoardInfo:
    """What the harness says about itself and the model in it."""

    model_id: str
    model_name: str
    arena_bytes: int
    input_bytes: int
    output_bytes: int
    layers: int
    ticks_per_second: int


@dataclass(frozen=True)
class Inference:
    """The board's clock before and after the inferences of one command."""

    start_us: int
    end_us: int


@dataclass(frozen=True)
class BoardMemory:
    """What of the board's memory is in use, in bytes."""

    arena: int
    static: int
    stack: int
    stack_used: int
    """The most that was ever used since the board started."""
    free: int


@dataclass
class LineStatistics:
    """What has happened on a line so far."""

    exchanges: int = 0
    """Commands sent; every one has a reply, or failed."""
    silences: int = 0
    """Replies that did not come in time."""
    corruptions: int = 0
    """Replies whose check was wrong, or that came without one."""
    restarts: int = 0
    """Boots of the board that were seen."""
    reopenings: int = 0
    """Times that the port went away and came back."""
    disturbances: int = 0
    """Timings that were repeated because bytes came meanwhile."""

    @property
    def repetitions(self) -> int:
        """How often something had to be done again."""
        return self.silences + self.corruptions + self.restarts + self.reopenings + self.disturbances


class SerialSession:
    """A conversation with the harness over a port, which it keeps in step, reopens and sets the speed of."""

    def __init__(
        self,
        port: Port,
        board: str,
        *,
        patience: Patience = DEFAULT_PATIENCE,
        baud: int = BAUD,
        reset: ResetMode = ResetMode.NONE,
    ) -> None:
        """``baud`` is the speed to change to after each sync, ``reset`` the last resort when nothing answers."""
        self.statistics = LineStatistics()
        self._port = port
        self._board = board
        self._patience = patience
        self._wanted_baud = baud
        self._reset = reset
        self._received = bytearray()
        self._readies = 0  # that come before the reply's own
        self._late_readies = 0  # that end the last reply and may still be on the way
        # A number that no host before this one used, whose replies may still be on the way.
        self._sequence = 10_000_000 + secrets.randbelow(400_000_000)
        self._round_trip = _RoundTrip()
        self._inference = _RoundTrip()
        self._silences = 0  # of the command that is being repeated
        self._piece_bytes = MOST_PIECE_BYTES
        self._good_pieces = 0
        self._raw_bytes = 0  # that the board may still wait for
        self._loaded: bytes | None = None  # what the board has as its input
        self._model_id: str | None = None
        self._in_transaction = False
        self._faults = 0  # since the last inference
        self._failed_bauds = 0

    @property
    def port(self) -> Port:
        """The port that it talks over."""
        return self._port

    def sync(self) -> None:
        """Get the board's attention whatever it was doing, at whatever speed. Raises DeviceError when it cannot.

        ForeignFirmwareError says that something else answers than the harness.
        """
        self._recover(None)

    def finish(self) -> None:
        """Take the end of the last reply, as a line that others are to talk over next is left. Raises NoAnswerError."""
        self._await_ready(self._patience.ceiling_s)
        if self._late_readies:
            raise NoAnswerError(f"the last reply of the board {self._board} has no end{self._what_came()}")

    def reopen(self) -> None:
        """Open the port again after it was closed or the board was written anew, and sync."""
        self._recover(PortGoneError("closed on purpose"))

    def require_model(self, model_id: str) -> None:
        """Raise OtherModelError now, and after every restart from now on, unless the board runs this model."""
        self._model_id = model_id
        self._loaded = None
        self._persist("info", self._check_model)

    def forget_model(self) -> None:
        """Take the board with whatever model it has."""
        self._model_id = None

    def command(self, text: str) -> list[str]:
        """Send one command (without its ``%``), until its reply is right; returns its lines, ``m-ready`` left out.

        Raises BoardReplyError with the board's own words when it refuses, and DeviceError when the line stays bad.
        """
        return self._persist(text, lambda: self._exchange(text))

    def info(self) -> BoardInfo:
        """What model the board runs."""
        return self._persist("info", self._info)

    def memory(self) -> BoardMemory:
        """What of the board's memory is in use."""
        names = ("arena", "static", "stack", "stack-used", "free")
        return BoardMemory(*(int(number) for number in self._fields(self.command("memory"), "memory", *names)))

    def restart(self) -> None:
        """Make the board start again by its own command, and wait until it has."""
        self.command("restart")
        self._port.set_baud(BAUD)
        self.sync()

    def run(self, data: bytes) -> bytes:
        """The output for one input."""
        return self._until_remembered(lambda: self._run(data))

    def time(self, data: bytes, runs: int, warmups: int = 0) -> int:
        """The clock ticks that ``runs`` inferences of one input take together, while nothing comes over the line."""
        return self._until_remembered(lambda: self._time(data, runs, warmups))

    def layers(self, data: bytes) -> tuple[int, ...]:
        """The clock ticks of each layer in one inference, while nothing comes over the line."""
        return self._until_remembered(lambda: self._layers(data))

    # What an inference is made of. Here, too, the line's faults are made good, but what the board forgot is an error.

    def load(self, data: bytes) -> None:
        """Send an input in pieces, unless it is there already. The worse the line, the smaller the pieces."""
        if self._loaded == data:
            return
        self._loaded = None
        offset = 0
        while offset < max(1, len(data)):
            offset = self._persist(f"load {len(data)} {offset}", partial(self._load_piece, data, offset))
        self._loaded = data

    def infer(self, runs: int, warmups: int = 0) -> Inference:
        """Run the loaded input."""
        text = f"infer {runs} {warmups}"
        lines = self._slowly(text, b"m-warmup-start-", b"m-infer-done", runs + warmups)
        laps = [int(line.removeprefix("m-lap-us-")) for line in lines if re.fullmatch(r"m-lap-us-\d+", line)]
        if len(laps) != 2:
            raise self._no_answer(text, lines)
        return Inference(*laps)

    def output(self) -> bytes:
        """Raw bytes of the last result."""
        found = self._match(r"m-output-\[((?:[\da-f]{2})*)\]-([\da-f]{8})", self.command("output"), "output")
        return bytes.fromhex(found[1])

    def _run(self, data: bytes) -> bytes:
        self.load(data)
        self.infer(1)
        return self.output()

    def _time(self, data: bytes, runs: int, warmups: int) -> int:
        self.load(data)
        self.infer(runs, warmups)
        found = self._match(r"m-ticks-\[(\d+),(\d+),(\d+)\]", self.command("ticks"), "ticks")
        counted, ticks, disturbing_bytes = (int(value) for value in found.groups())
        if counted != runs:
            self._loaded = None
            raise _ForgottenError(f"it timed {counted} inferences in place of {runs}")
        self._require_undisturbed(disturbing_bytes)
        return ticks

    def _layers(self, data: bytes) -> tuple[int, ...]:
        self.load(data)
        lines = self._slowly("layers", b"m-layers-[", b"m-disturbed-", 1)
        ticks = self._match(r"m-layers-\[(\d+(?:,\d+)*)\]", lines, "layers")[1]
        self._require_undisturbed(int(self._match(r"m-disturbed-\[(\d+)\]", lines, "layers")[1]))
        return tuple(int(value) for value in ticks.split(","))

    def _slowly(self, text: str, begun: bytes, ended: bytes, runs: int) -> list[str]:
        """A command that computes, silently, between two parts of its reply."""
        return self._persist(text, lambda: self._exchange(text, computing=_Computing(begun, ended, runs)))

    def _require_undisturbed(self, disturbing_bytes: int) -> None:
        if disturbing_bytes:
            self.statistics.disturbances += 1
            raise _ForgottenError(f"{disturbing_bytes} bytes came over the line while it was timing")

    def _load_piece(self, data: bytes, offset: int) -> int:
        """Send the next piece; returns how many bytes there are then."""
        piece = data[offset : offset + self._piece_bytes]
        end = offset + len(piece)
        text = f"load {len(data)} {offset} {len(piece)} {zlib.crc32(piece):08x}"
        try:
            lines = self._exchange(text, raw=piece)
        except (BoardReplyError, *_LINE_ERRORS) as error:
            self._piece_bytes = max(LEAST_PIECE_BYTES, self._piece_bytes // 2)
            self._good_pieces = 0
            if isinstance(error, BoardReplyError) and "load again" in str(error):
                self.statistics.corruptions += 1
                raise _SpoiledPieceError(str(error)) from error
            raise
        self._match(rf"m-loaded-\[{end}\]", lines, text)
        if end == len(data):
            self._match(r"m-load-done", lines, text)
        self._good_pieces += 1
        if self._good_pieces % PIECES_BEFORE_LARGER == 0:
            self._piece_bytes = min(MOST_PIECE_BYTES, 2 * self._piece_bytes)
        return end

    def _info(self) -> BoardInfo:
        names = ("id", "name", "arena", "input", "output", "layers", "ticks-per-second")
        model_id, model_name, *numbers = self._fields(self._exchange("info"), "info", *names)
        return BoardInfo(model_id, model_name, *(int(number) for number in numbers))

    def _check_model(self) -> None:
        running = self._info().model_id
        if self._model_id is not None and running != self._model_id:
            raise OtherModelError(f"the board {self._board} runs the model {running}, not {self._model_id}")

    def _fields(self, lines: list[str], command: str, *names: str) -> list[str]:
        """The named fields of the reply; a later firmware may have more of them."""
        text = self._match(rf"m-{command}-\[(.*)\]", lines, command)[1]
        fields = dict(re.findall(r"(?:^|,)([a-z-]+)=([^,]*)", text))
        if missing := [name for name in names if name not in fields]:
            raise DeviceError(
                f"the board {self._board} leaves out {', '.join(missing)} of its {command}; build its firmware again"
            )
        return [fields[name] for name in names]

    def _match(self, pattern: str, lines: list[str], command: str) -> re.Match[str]:
        for line in lines:
            if found := re.fullmatch(pattern, line):
                return found
        raise self._no_answer(command, lines)

    def _no_answer(self, command: str, lines: list[str]) -> DeviceError:
        return DeviceError(
            f"the board {self._board} answered '{command}' with {lines!r}, which is no answer to it; build its firmware"
            " again"
        )

    # From here on: how anything gets through.

    def _until_remembered(self, transaction: Callable[[], _T]) -> _T:
        """Repeat what begins with a load for as long as the board forgets it half-way."""
        self._in_transaction = True
        try:
            for _ in range(self._patience.attempts):
                try:
                    result = transaction()
                except _ForgottenError as error:
                    reason: Exception = error
                except BoardReplyError as error:
                    if not _FORGOTTEN.search(str(error)):
                        raise
                    reason = error
                else:
                    self._faults = 0
                    return result
            raise DeviceError(
                f"the board {self._board} did not get through an inference in {self._patience.attempts} attempts: "
                f"{reason}; check its power supply and its cable"
            ) from reason
        finally:
            self._in_transaction = False

    def _persist(self, text: str, exchange: Callable[[], _T]) -> _T:
        """Repeat an exchange until its reply is right, with patience that doubles after each silence."""
        silences = 0
        for attempt in range(self._patience.attempts):
            self._silences = silences
            if attempt == ATTEMPTS_AT_SPEED:
                self._wanted_baud = BAUD
            try:
                return exchange()
            except _SpoiledPieceError as error:
                reason: Exception = error
            except _LINE_ERRORS as error:
                reason = error
                silences += isinstance(error, _SilentError)
                self.statistics.reopenings += isinstance(error, PortGoneError)
                if silences > self._patience.silences:
                    break
                self._recover(error)
                if isinstance(error, PortGoneError) and self._in_transaction:
                    # What came back may be another board, with another input.
                    raise _ForgottenError(str(error)) from error
            finally:
                self._silences = 0
        raise DeviceError(
            f"the command '{text}' did not get through to the board {self._board} and back: {reason}; check its cable "
            "and its speed"
        ) from reason

    def _recover(self, error: Exception | None) -> None:
        """Get back in step after an error: reopen the port if it has gone, find the board, see that it is the same."""
        is_lost, is_same = isinstance(error, PortGoneError), error is not None
        if isinstance(error, (_RestartedError, PortGoneError)):
            self._loaded, is_same = None, False
        for _ in range(self._patience.attempts):
            try:
                if is_lost:
                    self._port.reopen()
                    is_lost = False
                self._end_raw_data()
                self._find_board(error)
                self._negotiate()
                if not is_same:
                    self._loaded = None
                    if self._model_id is not None:
                        self._check_model()
                return
            except PortGoneError:
                self.statistics.reopenings += 1
                is_lost, is_same = True, False
            except _RestartedError:
                is_same = False
            except _LineError:
                continue
        raise DeviceError(f"the board {self._board} is lost again and again; check its cable and its power supply")

    def _end_raw_data(self) -> None:
        """Fill up raw data that the board may still wait for. Where it does not, these line ends are no command."""
        if not self._raw_bytes:
            return
        self._received.clear()
        self._port.write(b"\n" * self._raw_bytes)
        deadline = time.monotonic() + SWALLOW_S + self._wire_s(self._raw_bytes)
        while b"m-ready" not in self._received and time.monotonic() < deadline:
            self._received += self._port.read()
        self._raw_bytes = 0

    def _find_board(self, error: Exception | None) -> None:
        """Ask for the board's name until the reply is right, which shows that all before it is dealt with."""
        patience = self._patience
        begun = time.monotonic()
        computing = error.computing if isinstance(error, _SilentError) else None
        limit_s = patience.sync_s + (patience.inference_s * computing.runs if computing else 0)
        deadline = begun + limit_s
        foreign_replies, has_reset = 0, self._reset is ResetMode.NONE
        bauds = self._likely_bauds() if self._port.has_baud else [self._port.baud]
        for attempt in count():
            self._silences = min(attempt // len(bauds), 5)
            try:
                # What ends half a command that was left there gets an error, and so does nothing.
                self._exchange("name", prefix=b"%")
            except _LineError as failed:
                foreign_replies += b"e-[Unknown command: check]" in self._received
                last: _LineError = failed
            else:
                if computing:
                    self._inference.at_least((time.monotonic() - begun) / computing.runs)
                return
            finally:
                self._silences = 0
            if foreign_replies == 2:
                raise ForeignFirmwareError(
                    f"the board {self._board} runs other firmware than tinynas's, or an old one: it does not know the "
                    "command 'check'"
                )
            if self._port.has_moved():
                raise PortGoneError(f"the port {self._port.path} of the board {self._board} leads elsewhere now")
            if time.monotonic() >= deadline:
                if has_reset:
                    raise NoAnswerError(
                        f"the board {self._board} does not answer within {limit_s:.0f} s ({last}); check the port, and "
                        "that the board runs the tinynas firmware"
                    )
                self._reset_board()
                has_reset, deadline = True, time.monotonic() + patience.sync_s
            elif attempt and not isinstance(last, _RestartedError):
                self._port.set_baud(bauds[attempt % len(bauds)])

    def _likely_bauds(self) -> list[int]:
        """The speed at this end, then the others where a board may have been left; the first one more often."""
        first = self._port.baud
        return [
            speed for other in dict.fromkeys((self._wanted_baud, *BAUDS)) if other != first for speed in (first, other)
        ]

    def _reset_board(self) -> None:
        if self._reset is ResetMode.COMMAND:
            self._port.write(b"%restart%")
        self._port.reset(self._reset)
        self._port.set_baud(BAUD)

    def _negotiate(self) -> None:
        """Change to the wanted speed where it is another one; where it does not work, stay."""
        before, wanted = self._port.baud, self._wanted_baud
        if before == wanted:
            return
        lines = self._exchange(f"baud {wanted}")
        if int(self._match(r"m-baud-\[(\d+)\]", lines, "baud")[1]) == 0:
            self._wanted_baud = before
            return
        self._port.set_baud(wanted)
        deadline = time.monotonic() + 0.8 * BAUD_TRIAL_S
        while time.monotonic() < deadline:
            try:
                self._exchange("info", prefix=b"%")
            except _LineError:
                continue
            return
        self._port.set_baud(before)
        self._failed_bauds += 1
        if self._failed_bauds == MOST_FAILED_BAUDS:
            self._wanted_baud = before
        time.sleep(BAUD_TRIAL_S)
        self._find_board(None)

    def _exchange(
        self, command: str, *, raw: bytes = b"", prefix: bytes = b"", computing: _Computing | None = None
    ) -> list[str]:
        """One command and its reply's lines. Raises BoardReplyError, PortGoneError, or the _LineError that it met."""
        self.statistics.exchanges += 1
        self._sequence += 1
        text = f"{self._sequence} {command}"
        sent = prefix + f"check {self._sequence} {zlib.crc32(text.encode()):08x} {command}%".encode("ascii")
        begun = time.monotonic()
        self._received.clear()
        self._readies, self._late_readies = len(prefix) + self._late_readies, 0
        self._port.write(sent)
        self._raw_bytes = len(raw)
        lines = self._await_reply(command, len(sent), raw, computing)
        self._raw_bytes = 0
        took_s = time.monotonic() - begun
        if computing:
            self._inference.add(took_s / computing.runs)
        else:
            self._round_trip.add(max(0.0, took_s - self._wire_s(len(sent) + len(raw) + len(self._received))))
        self._await_ready(self._patience.quiet_s)
        refusal = next((line for line in lines if line.startswith("e-[")), None)
        if refusal is not None:
            words = refusal.removeprefix("e-[").removesuffix("]")
            if _FORGOTTEN.search(words):
                self._loaded = None
            raise BoardReplyError(f"the board {self._board} refused '{command}': {words}")
        return lines

    def _await_reply(self, command: str, sent_bytes: int, raw: bytes, computing: _Computing | None) -> list[str]:
        expecting = f"m-[Expecting {len(raw)} bytes]".encode() if raw else b""
        last = time.monotonic()
        while (reply := self._checked_reply(command)) is None:
            if b"m-init-done" in self._received:
                self._note_restart(command)
            if len(self._received) > MAX_REPLY_BYTES:
                raise self._corrupt(f"its reply to '{command}' has no end")
            if expecting and expecting in self._received:
                self._port.write(raw)
                sent_bytes, expecting, last = len(raw), b"", time.monotonic()
            chunk = self._port.read()
            now = time.monotonic()
            if chunk:
                self._received += chunk
                last = now
            elif now - last > self._patience_s(sent_bytes, computing):
                if self._is_ready():
                    raise self._corrupt(f"its reply to '{command}' came without its check")
                self.statistics.silences += 1
                raise _SilentError(f"it did not answer '{command}' in time{self._what_came()}", computing)
        return reply

    def _patience_s(self, sent_bytes: int, computing: _Computing | None) -> float:
        """How long the line may be silent now."""
        patience = self._patience
        doublings = 2.0 ** min(self._silences, 10)
        if self._is_ready():
            return min(patience.ceiling_s, patience.quiet_s * doublings)
        usual_s = self._round_trip.patience_s
        reply_s = max(patience.floor_s, usual_s) if usual_s is not None else patience.first_s
        reply_s = min(patience.ceiling_s, reply_s * doublings) + self._wire_s(sent_bytes)
        if computing is None or computing.begun not in self._received or computing.ended in self._received:
            return reply_s
        usual_s = self._inference.patience_s
        inference_s = patience.first_inference_s if usual_s is None else SLACK * usual_s
        return max(reply_s, computing.runs * min(patience.inference_s, inference_s * doublings))

    def _is_ready(self) -> bool:
        """Whether the board has ended its reply, not only that to what was sent ahead of the command."""
        return self._received.count(b"m-ready") > self._readies

    def _checked_reply(self, command: str) -> list[str] | None:
        """The reply to the last command, once all of it is there. Raises _CorruptError when it is not right."""
        for found in _CHECK.finditer(self._received):
            if int(found[1]) == self._sequence:
                body = bytes(self._received[: found.start()])
                reply = self._verified(body, int(found[2], 16))
                if reply is None:
                    raise self._corrupt(f"its reply to '{command}' was changed on the way")
                return reply.decode("ascii").split("\r\n")[:-1]
        return None

    def _verified(self, body: bytes, crc: int) -> bytes | None:
        """The reply at the end of ``body`` that has this CRC; before it may be an echo, or what came for others."""
        seed = zlib.crc32(b"%d " % self._sequence)
        starts = [*(found.start() for found in _REPLY_START.finditer(body)), len(body)]
        return next((body[start:] for start in starts if zlib.crc32(body[start:], seed) == crc), None)

    def _await_ready(self, patience_s: float) -> None:
        """Take the ``m-ready`` that ends the reply, or note that it is late, so that it is not taken for the next's."""
        deadline = time.monotonic() + patience_s
        while (is_late := b"m-ready\r\n" not in self._received[-32:]) and time.monotonic() < deadline:
            self._received += self._port.read()
        self._late_readies = int(is_late)

    def _note_restart(self, command: str) -> None:
        self.statistics.restarts += 1
        self._raw_bytes = 0
        has_faulted = b"e-[Fault" in self._received
        self._faults += has_faulted
        if self._faults > MOST_FAULTS:
            raise DeviceError(
                f"the board {self._board} stops with a fault again and again, now at '{command}'; the model or its "
                "stack may be too large for the part"
            )
        raise _RestartedError(f"it started again at '{command}'{' after a fault' * has_faulted}")

    def _corrupt(self, what: str) -> _CorruptError:
        self.statistics.corruptions += 1
        self._raw_bytes = 0
        return _CorruptError(what + self._what_came())

    def _what_came(self) -> str:
        if not self._received:
            return ", nothing came"
        return f", what came last was {bytes(self._received[-60:]).decode('ascii', 'backslashreplace')!r}"

    def _wire_s(self, count_bytes: int) -> float:
        """Start bit, eight bits, stop bit."""
        return 10 * count_bytes / self._port.baud


@dataclass(frozen=True)
class _Computing:
    """Between these two parts of its reply, the board computes so many inferences."""

    begun: bytes
    ended: bytes
    runs: int


class _RoundTrip:
    """A duration's smoothed mean and deviation, and the patience that follows from them: RFC 6298."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    @property
    def patience_s(self) -> float | None:
        """None before any was seen."""
        return None if self._mean_s is None else self._mean_s + 4 * self._deviation_s

    def add(self, seconds: float) -> None:
        """One was measured."""
        if self._mean_s is None:
            self._mean_s, self._deviation_s = seconds, seconds / 2
        else:
            self._deviation_s += (abs(self._mean_s - seconds) - self._deviation_s) / 4
            self._mean_s += (seconds - self._mean_s) / 8

    def at_least(self, seconds: float) -> None:
        """One took longer than anybody waited."""
        if self._mean_s is None or self._mean_s < seconds:
            self._mean_s, self._deviation_s = seconds, seconds / 2


class _LineError(Exception):
    """What may be better the next time."""


class _SilentError(_LineError):
    """Time was up."""

    def __init__(self, what: str, computing: _Computing | None) -> None:
        super().__init__(what)
        self.computing = computing


class _CorruptError(_LineError):
    """Something came, and not what was sent."""


class _SpoiledPieceError(_LineError):
    """The board says so of a piece of the input, and waits for it again."""


class _RestartedError(_LineError):
    """The board booted."""


class _ForgottenError(Exception):
    """The board has not, or may not have, what it was told before: begin anew."""


_LINE_ERRORS = (_LineError, PortGoneError)
