"""The host's side of the protocol against boards and lines that misbehave: the right answer or one clear error."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest

from devices.errors import DeviceError
from devices.serial_line import protocol
from devices.serial_line.ports import Port, PortGoneError, ResetMode
from devices.serial_line.protocol import (
    BoardReplyError,
    ForeignFirmwareError,
    NoAnswerError,
    OtherModelError,
    Patience,
    SerialSession,
)

Reply = Callable[[str], Iterable[str] | bytes | None]
DATA = bytes(range(100))
INFO = "m-info-[id=abc,name=toy,arena=64,input=100,output=4,layers=2,ticks-per-second=1000,baud=115200]"
BANNER = b"m-timestamp-mode-performance\r\nm-lap-us-0\r\nm-init-done\r\nm-ready\r\n"
INFER = ["m-warmup-start-0", "m-warmup-done", "m-infer-start-1", "m-lap-us-1", "m-lap-us-2", "m-infer-done"]
INFER += ["m-results-[0.5]"]


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakePort(Port):
    """A board in place of a port: `reply` gets each command, `on_line` what then goes over the line.

    A reply of None is silence; bytes are sent as they are, without check.
    """

    def __init__(self, clock: Clock, reply: Reply) -> None:
        self.clock = clock
        self.reply = reply
        self.commands: list[str] = []
        self.on_line: Callable[[bytes], bytes] = lambda data: data
        self.resets: list[ResetMode] = []
        self.reopened = 0
        self.raw = b""
        self._path = self._real_path = "/dev/pts/fake"
        self._baud = 115_200
        self._coming = b""
        self._line = b""
        self._raw_left = 0
        self._ending: Callable[[bytes], None] = lambda data: None

    def say(self, data: bytes) -> None:
        self._coming += data

    def read(self) -> bytes:
        data, self._coming = self._coming[:4096], self._coming[4096:]
        self.clock.now += len(data) * 10 / self._baud if data else 0.01
        return data

    def write(self, data: bytes) -> None:
        for value in data:
            if self._raw_left:
                self._raw_left -= 1
                self.raw += bytes([value])
                if not self._raw_left:
                    self._ending(self.raw)
            elif value == ord("%"):
                line, self._line = self._line.decode("ascii"), b""
                self._answer(line)
            else:
                self._line += bytes([value])

    def _answer(self, line: str) -> None:
        found = re.fullmatch(r"check (\d+) ([\da-f]{8}) (.*)", line)
        if not found or zlib.crc32(f"{found[1]} {found[3]}".encode()) != int(found[2], 16):
            answer = self.reply("")
            assert answer is None or isinstance(answer, bytes)
            self.say(answer or b"")
            return
        sequence, text = found[1], found[3]
        self.commands.append(text)
        count = int(text.split()[3]) if text.startswith("load ") else 0
        if not count:
            self._finish(sequence, "", self.reply(text))
            return
        announced = f"m-[Expecting {count} bytes]\r\n"
        self.raw, self._raw_left = b"", count
        self._ending = lambda data: self._finish(sequence, announced, self.reply(text))
        self.say(announced.encode())

    def _finish(self, sequence: str, begun: str, answer: Iterable[str] | bytes | None) -> None:
        if answer is None:
            return
        if isinstance(answer, bytes):
            self.say(self.on_line(answer))
            return
        text = "".join(f"{line}\r\n" for line in answer)
        crc = zlib.crc32(f"{sequence} {begun}{text}".encode())
        self.say(self.on_line(f"{text}m-check-[{sequence},{crc:08x}]\r\nm-ready\r\n".encode()))

    def set_baud(self, baud: int) -> None:
        self._baud = baud

    def reset(self, mode: ResetMode) -> None:
        self.resets.append(mode)

    def has_moved(self) -> bool:
        return False

    def reopen(self) -> None:
        self.reopened += 1
        self._raw_left, self._line, self._coming = 0, b"", b""

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(protocol, "time", clock)
    return clock


@pytest.fixture
def fake(clock: Clock) -> FakePort:
    return FakePort(clock, well)


def session(port: FakePort, **options: object) -> SerialSession:
    return SerialSession(port, "fake", **options)  # type: ignore[arg-type]


def well(command: str) -> Iterable[str] | bytes:
    """A board on which all is well."""
    if not command:
        return b"e-[Unknown command: ]\r\nm-ready\r\n"
    kind, *words = command.split()
    if kind == "load":
        end = int(words[1]) + int(words[2])
        return [f"m-loaded-[{end}]"] + ["m-load-done"] * (end == int(words[0]))
    if kind == "infer":
        return INFER
    return {
        "name": ["m-name-dut-[tinynas]"],
        "info": [INFO],
        "output": [f"m-output-[0102]-{zlib.crc32(bytes([1, 2])):08x}"],
        "ticks": ["m-ticks-[1,30,0]"],
        "layers": ["m-layers-[10,20]", "m-disturbed-[0]"],
        "memory": ["m-memory-[arena=1,static=2,stack=3,stack-used=4,free=5]"],
        "restart": [],
    }[kind]


def first(*answers: Iterable[str] | bytes | None, to: str) -> Reply:
    """These answers to the first such commands, then all is well."""
    waiting = list(answers)
    return lambda command: waiting.pop(0) if waiting and command.startswith(to) else well(command)


def test_all_is_well(fake: FakePort) -> None:
    talk = session(fake)
    talk.sync()
    assert talk.info().model_id == "abc"
    assert talk.info().ticks_per_second == 1000
    assert talk.memory().stack_used == 4
    assert talk.run(DATA) == bytes([1, 2])
    assert talk.time(DATA, 1) == 30
    assert talk.layers(DATA) == (10, 20)
    assert [command.split()[0] for command in fake.commands].count("load") == 1, "the input was there already"
    assert talk.statistics.repetitions == 0


def test_a_late_end_of_one_reply_is_not_the_next_ones(fake: FakePort, clock: Clock) -> None:
    """It comes ahead of the next reply, with more time between the two than there is within a reply."""
    held: list[tuple[float, bytes]] = []

    def linger(reply: bytes) -> bytes:
        if b"m-load-done" in reply:
            return reply.removesuffix(b"m-ready\r\n")
        if b"m-infer-done" in reply:
            held.append((clock.now + 3 * Patience().quiet_s, reply))
            return b"m-ready\r\n"
        return reply

    read = fake.read

    def read_late() -> bytes:
        if held and clock.now >= held[0][0]:
            fake.say(held.pop()[1])
        return read()

    fake.on_line = linger
    fake.read = read_late  # type: ignore[method-assign]
    talk = session(fake)
    talk.sync()
    assert talk.run(DATA) == bytes([1, 2])
    assert talk.statistics.repetitions == 0
    assert fake.commands.count("infer 1 0") == 1


def test_sync_skips_what_a_booting_board_says(fake: FakePort) -> None:
    fake.say(b"\xff\x00garbage\r\n" + BANNER)
    talk = session(fake)
    talk.sync()
    assert fake.commands[-1] == "name"


def test_sync_ends_half_a_command(fake: FakePort) -> None:
    fake.write(b"db loa")
    session(fake).sync()
    assert fake.commands == ["name"]


def test_the_end_of_a_reply_is_waited_for_before_others_get_the_line(fake: FakePort) -> None:
    fake.on_line = lambda data: data.removesuffix(b"\r\n")
    talk = session(fake)
    talk.sync()
    with pytest.raises(NoAnswerError, match=r"reply of the board fake has no end, what came last was .*m-ready"):
        talk.finish()
    fake.say(b"\r\n")
    talk.finish()
    assert fake.read() == b""


def test_an_echo_is_no_part_of_the_reply(fake: FakePort) -> None:
    fake.on_line = lambda reply: b"check 1 00000000 info%" + reply
    assert session(fake).info().model_id == "abc"
    assert fake.commands == ["info"]


def test_what_came_for_others_is_no_part_of_the_reply(fake: FakePort) -> None:
    fake.on_line = lambda reply: b"e-[Corrupt command]\r\nm-ready\r\nm-lap-us-12\r\n" + reply
    assert session(fake).info().model_id == "abc"


def test_a_silent_board_is_an_error(fake: FakePort) -> None:
    fake.reply = lambda command: None
    with pytest.raises(NoAnswerError, match=r"fake does not answer within 15 s \(.*nothing came\); check the port"):
        session(fake).sync()
    assert fake.clock.now < 140


def test_a_board_that_does_not_answer_is_reset_if_there_is_a_way(fake: FakePort) -> None:
    fake.reply = lambda command: well(command) if fake.resets else None
    session(fake, reset=ResetMode.DTR).sync()
    assert fake.resets == [ResetMode.DTR]


@pytest.mark.parametrize("position", range(0, 260, 7))
@pytest.mark.parametrize("command", ["infer", "ticks", "output", "info"])
def test_a_reply_that_was_changed_is_never_taken(fake: FakePort, command: str, position: int) -> None:
    """One bit in one reply, wherever it is."""
    spoiled = []

    def spoil(reply: bytes) -> bytes:
        if spoiled or not fake.commands[-1].startswith(command) or position >= len(reply):
            return reply
        spoiled.append(reply)
        return reply[:position] + bytes([reply[position] ^ 0x02]) + reply[position + 1 :]

    fake.on_line = spoil
    talk = session(fake)
    assert talk.info().output_bytes == 4
    assert talk.time(DATA, 1) == 30
    assert talk.run(DATA) == bytes([1, 2])
    assert len([sent for sent in fake.commands if sent.startswith(command)]) <= 4


def test_the_reply_to_an_earlier_command_is_not_taken(fake: FakePort) -> None:
    """A command that did not get through, and a late reply that would fit it."""
    late: list[bytes] = []

    def swap(reply: bytes) -> bytes:
        if fake.commands[-1] != "ticks":
            return reply
        late.append(reply)
        return late[-2] if len(late) == 2 else reply

    ticks = iter(["m-ticks-[1,11,0]", "m-ticks-[1,22,0]", "m-ticks-[1,22,0]"])
    fake.reply = lambda command: [next(ticks)] if command == "ticks" else well(command)
    fake.on_line = swap
    talk = session(fake)
    assert talk.time(DATA, 1) == 11
    assert talk.time(DATA, 1) == 22
    assert len(late) == 3


def test_a_refusal_carries_the_boards_own_words_and_is_not_repeated(fake: FakePort) -> None:
    fake.reply = lambda command: ["e-[This model takes 64 bytes]"] if command else None
    with pytest.raises(BoardReplyError, match=r"fake refused 'load 100 0 100 .*': This model takes 64 bytes"):
        session(fake).run(DATA)
    assert len(fake.commands) == 1


def test_a_piece_that_was_spoiled_is_sent_again_and_smaller(fake: FakePort) -> None:
    fake.reply = first(["e-[CRC mismatch: load again]"], ["e-[Bytes are missing: load again]"], to="load")
    assert session(fake).run(bytes(2048)) == bytes([1, 2])
    loads = [tuple(map(int, command.split()[1:4])) for command in fake.commands if command.startswith("load")]
    assert loads[:4] == [(2048, 0, 1024), (2048, 0, 512), (2048, 0, 256), (2048, 256, 256)]


def test_a_board_that_forgot_the_pieces_before_gets_them_again(fake: FakePort) -> None:
    fake.reply = first(["e-[A piece is missing before this one: load from the start]"], to="load 2048 1024")
    assert session(fake).run(bytes(2048)) == bytes([1, 2])
    offsets = [int(command.split()[2]) for command in fake.commands if command.startswith("load")]
    assert offsets == [0, 1024, 0, 512, 1024, 1536]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("infer", "No input: load one first"),
        ("infer", "Input consumed: load it again"),
        ("output", "No result: infer first"),
    ],
)
def test_what_the_board_forgot_it_is_told_again(fake: FakePort, command: str, words: str) -> None:
    fake.reply = first([f"e-[{words}]"], to=command)
    assert session(fake).run(DATA) == bytes([1, 2])
    assert sum(sent.startswith("load") for sent in fake.commands) == 2


def test_a_board_that_keeps_forgetting_is_an_error(fake: FakePort) -> None:
    fake.reply = lambda command: ["e-[No input: load one first]"] if command.startswith("infer") else well(command)
    with pytest.raises(DeviceError, match=r"did not get through an inference in 7 attempts: .*No input"):
        session(fake, patience=Patience(attempts=7)).run(DATA)


def test_a_restart_ends_the_wait_at_once(fake: FakePort) -> None:
    fake.reply = first(b"m-warmup-start-0\r\n" + BANNER, to="infer")
    talk = session(fake)
    talk.sync()
    begun = fake.clock.now
    assert talk.run(DATA) == bytes([1, 2])
    assert fake.clock.now - begun < 1
    assert talk.statistics.restarts == 1


def test_a_board_that_faults_again_and_again_is_an_error(fake: FakePort) -> None:
    fault = b"e-[Fault: the board starts again]\r\n" + BANNER
    fake.reply = lambda command: fault if command.startswith("infer") else well(command)
    with pytest.raises(DeviceError, match="stops with a fault again and again, now at 'infer 1 0'"):
        session(fake).run(DATA)
    assert sum(sent.startswith("infer") for sent in fake.commands) == 6


def test_a_timing_that_was_disturbed_is_repeated(fake: FakePort) -> None:
    fake.reply = first(["m-ticks-[1,99,3]"], to="ticks")
    talk = session(fake)
    assert talk.time(DATA, 1) == 30
    assert talk.statistics.disturbances == 1
    fake.reply = first(["m-layers-[99,99]", "m-disturbed-[1]"], to="layers")
    assert talk.layers(DATA) == (10, 20)
    assert talk.statistics.disturbances == 2


def test_ticks_of_other_runs_are_not_taken(fake: FakePort) -> None:
    fake.reply = first(["m-ticks-[2,60,0]"], to="ticks")
    assert session(fake).time(DATA, 1) == 30


def test_other_firmware_is_told_apart_from_silence(fake: FakePort) -> None:
    fake.reply = lambda command: b"e-[Unknown command: check]\r\nm-ready\r\n"
    with pytest.raises(ForeignFirmwareError, match="runs other firmware than tinynas's, or an old one"):
        session(fake).sync()


def test_noise_without_end_is_an_error(fake: FakePort) -> None:
    fake.reply = lambda command: b"x" * (1 << 21)
    with pytest.raises(NoAnswerError, match="has no end"):
        session(fake).sync()


def test_a_reply_without_the_fields_that_are_needed_is_an_error(fake: FakePort) -> None:
    fake.reply = lambda command: ["m-info-[id=abc,name=toy]"] if command == "info" else well(command)
    with pytest.raises(DeviceError, match="leaves out arena, input, output, layers, ticks-per-second of its info"):
        session(fake).info()
    fake.reply = lambda command: ["m-nonsense"] if command == "ticks" else well(command)
    with pytest.raises(DeviceError, match=r"answered 'ticks' with .*m-nonsense.*build its firmware again"):
        session(fake).time(DATA, 1)


def test_a_slow_inference_is_waited_for_longer_each_time(fake: FakePort) -> None:
    """The first takes longer than anybody would wait; meanwhile every command waits on the board."""
    busy_until = 0.0

    def reply(command: str) -> Iterable[str] | bytes | None:
        nonlocal busy_until
        if fake.clock.now < busy_until:
            return None
        if command.startswith("infer") and not busy_until:
            busy_until = fake.clock.now + 25
            return b"m-warmup-start-0\r\nm-warmup-done\r\nm-infer-start-1\r\nm-lap-us-1\r\n"
        return well(command)

    fake.reply = reply
    talk = session(fake)
    assert talk.run(DATA) == bytes([1, 2])
    assert talk.statistics.silences >= 2
    silences = talk.statistics.silences

    busy_until, begun = 0.0, fake.clock.now
    assert talk.run(DATA) == bytes([1, 2])
    assert talk.statistics.silences == silences + 1
    assert 60 < fake.clock.now - begun < 130, "having learnt how long one takes, it waits longer than that"


def test_patience_grows_with_silence_and_ends(fake: FakePort) -> None:
    waits = []

    def reply(command: str) -> Iterable[str] | None:
        if command == "output":
            waits.append(fake.clock.now)
            return None
        return well(command)

    fake.reply = reply
    with pytest.raises(
        DeviceError, match=r"'output' did not get through to the board fake and back: it did not answer"
    ):
        session(fake, patience=Patience(silences=6)).run(DATA)
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert len(gaps) == 6
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.5
    assert gaps[-1] > 5


def test_a_speed_at_which_a_command_does_not_get_through_is_given_up(fake: FakePort) -> None:
    fake.reply = lambda command: [f"m-baud-[{command.split()[1]}]"] if command.startswith("baud") else well(command)
    fake.on_line = lambda reply: reply.replace(b"m-output", b"m-outpit") if fake.baud == 921_600 else reply
    talk = session(fake, baud=921_600)
    talk.sync()
    assert fake.baud == 921_600
    assert talk.run(DATA) == bytes([1, 2])
    assert fake.baud == 115_200
    assert fake.commands.count("output") == 12


def test_a_port_that_went_away_is_opened_again_and_the_input_sent_again(fake: FakePort) -> None:
    class Gone:
        done = False

    def reply(command: str) -> Iterable[str]:
        if command == "output" and not Gone.done:
            Gone.done = True
            raise PortGoneError("gone")
        return well(command)

    fake.reply = reply
    talk = session(fake)
    talk.require_model("abc")
    assert talk.run(DATA) == bytes([1, 2])
    assert fake.reopened == talk.statistics.reopenings == 1
    kinds = [command.split()[0] for command in fake.commands]
    assert kinds == ["info", "load", "infer", "output", "name", "info", "load", "infer", "output"]


def test_another_board_in_its_place_is_noticed(fake: FakePort) -> None:
    def reply(command: str) -> Iterable[str]:
        if command == "output" and not fake.reopened:
            raise PortGoneError("gone")
        return [INFO.replace("abc", "xyz")] if command == "info" and fake.reopened else well(command)

    fake.reply = reply
    talk = session(fake)
    talk.require_model("abc")
    with pytest.raises(OtherModelError, match="fake runs the model xyz, not abc"):
        talk.run(DATA)


def test_a_model_that_is_written_meanwhile_is_noticed_at_the_restart(fake: FakePort) -> None:
    fake.reply = first(BANNER, to="infer")
    talk = session(fake)
    talk.require_model("abc")
    well_before = fake.reply
    fake.reply = lambda command: [INFO.replace("abc", "xyz")] if command == "info" else well_before(command)
    with pytest.raises(OtherModelError):
        talk.run(DATA)
