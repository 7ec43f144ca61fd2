"""Whatever is wrong ends in one clear line, the right exit code, and with --json in one object on stdout."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devices import firmware
from export.graph import Graph
from export.synthetic import with_random_weights
from tests.devices.toy_models import need
from tests.oracles.tflite_writer import write_tflite
from tests.tinynas.conftest import Answer, Tinynas, finish, little
from tinynas import stages
from tinynas.lower import lower
from tinynas.space import load_space
from tinynas.strategies import STRATEGIES, sampler
from tinynas.study import Study

Spawn = Callable[..., subprocess.Popen[str]]


def failed(tinynas: Tinynas, *arguments: object) -> str:
    """The message of a command that fails, which is the same with and without --json."""
    plain, as_json = tinynas(*arguments), tinynas(*arguments, "--json")
    assert plain.out == ""
    assert as_json.json == {"error": as_json.error}
    assert as_json.error == plain.error
    assert len(plain.error) < 600
    return plain.error


USAGE = [
    [],
    ["frobnicate"],
    ["check"],
    ["check", "a.tflite", "b.tflite"],
    ["check", "a.tflite", "--frobnicate"],
    ["compile", "a.tflite"],
    ["compile", "a.tflite", "-o", "c", "--layout", "bazel"],
    ["measure", "a.tflite"],
    ["measure", "a.tflite", "--board", "emulator", "--runs", "0"],
    ["verify", "a.tflite", "--board", "emulator", "--inputs", "many"],
    ["calibrate"],
    ["calibrate", "--board", "emulator", "--samples", "1"],
    ["calibrate", "--power-trace", "trace.csv", "--inferences", "0"],
    ["predict"],
    ["predict", "a.tflite", "--architecture", "b"],
    ["search", "--data", "fashion-mnist"],
    ["search", "-o", "study"],
    ["search", "--data", "fashion-mnist", "-o", "study", "--trials", "0"],
    ["search", "--data", "fashion-mnist", "-o", "study", "--max-latency-ms", "fast"],
    ["run", "--data", "fashion-mnist"],
    ["export", "study"],
    ["report"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage(arguments: list[str], tinynas: Tinynas) -> None:
    answer = tinynas(*arguments)
    assert answer.code == 2
    assert "Usage: " in answer.err + answer.out
    assert "╭" not in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a TensorFlow Lite model"),
        (b"hello, world", "not a TensorFlow Lite model"),
        (random.Random(0).randbytes(5000), "not a TensorFlow Lite model"),
        (b"\0\0\0\x20TFL3" + random.Random(0).randbytes(500), "damaged"),
    ],
)
@pytest.mark.parametrize("command", ["check", "compile", "predict", "measure", "verify", "emulate"])
def test_a_file_that_is_no_model(command: str, content: bytes, says: str, tinynas: Tinynas) -> None:
    Path("bad.tflite").write_bytes(content)
    options = {"compile": ["-o", "c"], "measure": ["--board", "emulator"], "verify": ["--board", "emulator"]}
    if command in ("measure", "verify", "emulate"):
        need("qemu-system-arm")
    assert says in failed(tinynas, command, "bad.tflite", *options.get(command, []))
    assert not Path("c").exists()


def test_a_model_that_is_not_there(tinynas: Tinynas) -> None:
    assert "none.tflite: No such file" in failed(tinynas, "check", "none.tflite")
    assert "Is a directory" in failed(tinynas, "check", ".")


def test_a_model_of_floats(tinynas: Tinynas, home: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    network = tensorflow.keras.Sequential([tensorflow.keras.Input((8,)), tensorflow.keras.layers.Dense(3)])
    converter = tensorflow.lite.TFLiteConverter.from_keras_model(network)
    Path("float.tflite").write_bytes(converter.convert())
    assert "int8" in failed(tinynas, "check", "float.tflite")


def test_cut_and_flipped_models_never_end_in_a_traceback(tinynas: Tinynas, model_bytes: bytes) -> None:
    rng = random.Random(1)
    for round_ in range(120):
        content = bytearray(model_bytes)
        if round_ % 3 == 0:
            del content[rng.randrange(8, len(content)) :]
        else:
            # The tables are at the front, the weights behind.
            for _ in range(rng.choice([1, 3, 20])):
                content[rng.randrange(8, len(content))] = rng.randrange(256)
        Path("damaged.tflite").write_bytes(content)
        answer = tinynas("check", "damaged.tflite", "--json")
        assert answer.code in (0, 1)
        assert ("error" in answer.json) == (answer.code == 1)
        if answer.code == 0:
            assert tinynas("check", "damaged.tflite").code == 0


def test_names_in_a_model_are_shown_and_not_obeyed(tinynas: Tinynas, model_bytes: bytes) -> None:
    """A layer may be called anything: markup, an escape sequence that clears the screen, two lines."""
    space = load_space("mobilenet_small")
    graph = lower(space.extreme((16, 16, 1), largest=False), space, (16, 16, 1), 3)
    for name in ("[/red]", "[bold]x", "a\x1b[2Jb", "a\nb", "😀:smile:"):
        Path("named.tflite").write_bytes(write_tflite(with_random_weights(_renamed(graph, name))))
        answer = tinynas("check", "named.tflite")
        assert answer.code == 0
        shown = name.replace("\x1b", "?").replace("\n", " ")
        assert shown in answer.out
        assert "\x1b[2J" not in answer.out


def _renamed(graph: Graph, name: str) -> Graph:
    """With the first layer's output, after which a reader names the layer, called ``name``."""
    first = graph.operators[0].outputs[0]
    tensors = list(graph.tensors)
    tensors[first] = replace(tensors[first], name=name)
    return replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "stm32f999"], "no device profile 'stm32f999'; choose from .*stm32f405"),
        (["--space", "nothing"], "no search space 'nothing'; choose from .*mobilenet"),
        (["--strategy", "magic"], "no strategy 'magic'; choose from .*evolution"),
        (["--accuracy", "guess"], "no way to find accuracies called 'guess'; choose from supernet"),
        (["--objective", "accuracy,speed"], "no objective 'speed'"),
        (["--space", "mine.toml"], "cannot read the search space mine.toml"),
        (["--space", "bad.toml"], "bad.toml is not TOML"),
        (["--limit", "foo=1"], "no constraint 'foo'; .*max_sram_bytes"),
        (["--limit", "max_sram=1"], "did you mean max_sram_bytes"),
        (["--limit", "max_sram_bytes"], "not NAME=VALUE"),
        (["--max-sram", "-5"], "not a positive number of B"),
        (["--max-latency-ms", "nan"], "not a positive number of ms"),
        (["--max-sram", "10000000"], "more than the .* that stm32f405 has"),
        (["--max-latency-ms", "0.001"], "no architecture .* fits.*latency .* exceeds .*raise max_latency_ms"),
        (["--data", "nothing"], "no data set 'nothing'; choose from fashion-mnist"),
        (["--data", "bad.npz"], "bad.npz cannot be read"),
        (["--data", "."], "has 0 subfolders; an image folder needs one per class"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_study_that_cannot_be(options: list[str], says: str, tinynas: Tinynas, data: Path) -> None:
    Path("bad.npz").write_bytes(b"PK\x03\x04 and no more")
    Path("bad.toml").write_text("a = = b")
    message = failed(tinynas, "search", *little(data, "study"), *options)
    assert re.search(says, message), message
    # The limits of a study are kept in its folder: one that cannot be leaves none that would refuse better limits.
    assert not Path("study").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_that_nothing_fits(
    strategy: str, tinynas: Tinynas, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closest architecture and what is in its way, before anything is trained."""
    monkeypatch.setattr(sampler, "MAX_ATTEMPTS", 200)
    monkeypatch.setattr(stages, "train_supernet", lambda *_: pytest.fail("nothing fits, and something was trained"))
    options = [*little(data, "study"), "--strategy", strategy, "--max-flash", "9000", "--max-latency-ms", "50"]
    message = tinynas("search", *options).error
    assert re.search(r"no architecture .*the closest is mobilenet_small-r12-w0\.25-\S+: ", message), message
    assert re.search(r"flash [\d,]+ B exceeds the limit of 9,000 B by .*raise max_flash_bytes", message), message
    assert "latency" not in message
    assert not Path("study").exists()


def test_boards_that_cannot_be(tinynas: Tinynas, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no board 'bench-9'; choose from emulator" in failed(tinynas, "measure", model, "--board", "bench-9")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # Not the user's own server, which may have a phone.
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    no_phone = r"adb finds no phone 1234; check its cable|adb, which talks to phones, was not found; install it"
    assert re.search(no_phone, tinynas("measure", model, "--board", "adb:1234", "--json").json["error"])
    assert "is no phone" in failed(tinynas, "measure", model, "--board", "adb:1234", "--device", "stm32f405")
    assert "has no emulated board" in failed(tinynas, "measure", model, "--board", "emulator", "--device", "pixel2")
    assert "'table.csv' could not be read" in failed(
        tinynas, "calibrate", "--latencies", "table.csv", "--space", "fbnet"
    )
    assert "/dev/ttyNONE" in failed(tinynas, "verify", model, "--board", "serial:/dev/ttyNONE")
    assert "has no emulated board" in failed(tinynas, "emulate", model, "--device", "nrf52840")
    assert "no board 'bench-9'" in failed(tinynas, "run", *little(data, "study"), "--board", "bench-9")
    assert not Path("study").exists()


def test_power_traces_that_cannot_be_used(tinynas: Tinynas) -> None:
    assert "trace.csv cannot be read" in failed(tinynas, "calibrate", "--power-trace", "trace.csv")
    Path("trace.csv").write_text("time (s),current (mA)\n" + "\n".join(f"{i},1" for i in range(20)))
    assert "--supply-v" in failed(tinynas, "calibrate", "--power-trace", "trace.csv")
    options = ["--power-trace", "trace.csv", "--supply-v", "3.3"]
    assert "--latency-ms" in failed(tinynas, "calibrate", *options)
    assert "record longer" in failed(tinynas, "calibrate", *options, "--latency-ms", "20000")
    assert "stm32f999" in failed(tinynas, "calibrate", *options, "--device", "stm32f999")


def test_a_damaged_list_of_boards(tinynas: Tinynas, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("boards.toml").write_text('[[board]]\nid = 3\nspeed = "high"\n')
    monkeypatch.setenv("TINYNAS_BOARDS", "boards.toml")
    assert "boards.toml is not a valid list of boards: board number 1: id: " in failed(tinynas, "devices")


@pytest.fixture
def without(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides a tool: the search path becomes a copy of itself without it."""

    def hide(tool: str) -> None:
        farm = home / f"without-{tool}"
        farm.mkdir()
        for folder in reversed(os.environ["PATH"].split(os.pathsep)):
            for entry in Path(folder).glob("*"):
                (farm / entry.name).unlink(missing_ok=True)
                (farm / entry.name).symlink_to(entry)
        (farm / tool).unlink(missing_ok=True)
        monkeypatch.setenv("PATH", str(farm))
        firmware._version.cache_clear()

    return hide


@pytest.mark.parametrize("tool", ["qemu-system-arm", "arm-none-eabi-gcc", "arm-none-eabi-ar", "make", "cc"])
def test_a_tool_that_is_missing(tool: str, tinynas: Tinynas, model: Path, without: Callable[[str], None]) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    without(tool)
    for command in ("measure", "verify"):
        message = failed(tinynas, command, model, "--board", "emulator")
        assert tool in message
        assert "install" in message
    assert tinynas("check", model).code == 0
    assert tinynas("compile", model, "-o", "c").code == 0


@pytest.mark.parametrize("place", ["tiny.npz/out", "/proc/tinynas"])
def test_a_folder_that_cannot_be_written(place: str, tinynas: Tinynas, model: Path, data: Path) -> None:
    assert "cannot be written" in failed(tinynas, "compile", model, "-o", place)
    assert place in failed(tinynas, "search", *little(data, place))


def test_a_folder_that_is_no_study(tinynas: Tinynas, data: Path) -> None:
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"")
    assert "not a study and not empty" in failed(tinynas, "search", *little(data, "photos"))
    assert "is a file" in failed(tinynas, "search", *little(data, data))
    for place in ("photos", "nowhere"):
        assert f"no study in '{place}'" in failed(tinynas, "report", place)
        assert f"no study in '{place}'" in failed(tinynas, "export", place, "-o", "out")
    assert not Path("nowhere").exists()
    assert not Path("out").exists()


def test_a_study_in_use(tinynas: Tinynas, data: Path) -> None:
    assert tinynas("search", *little(data, "study", trials=2)).code == 0
    with Study.open(Path("study")):
        in_use = f"the study 'study' is in use by process {os.getpid()}"
        assert in_use in failed(tinynas, "search", *little(data, "study", trials=2))
        assert in_use in failed(tinynas, "export", "study", "-o", "out")
        assert tinynas("report", "study").code == 0  # looking is allowed
    assert "was started with other settings: trials was 2, now 3" in failed(
        tinynas, "search", *little(data, "study", trials=3)
    )
    assert "no candidate 'deadbeef'" in failed(tinynas, "export", "study", "--candidate", "deadbeef", "-o", "out")
    Path("tiny.npz").unlink()
    assert "no data set" in failed(tinynas, "export", "study", "-o", "out")


def test_a_damaged_study(tinynas: Tinynas, data: Path) -> None:
    assert tinynas("search", *little(data, "study", trials=2)).code == 0
    journal = Path("study/journal.jsonl")
    whole = journal.read_text()
    journal.write_text(whole.replace('"accuracy":', '"accuracy":"high",', 1))
    assert "journal.jsonl" in failed(tinynas, "report", "study")
    assert "journal.jsonl" in failed(tinynas, "search", *little(data, "study", trials=2))
    journal.write_text(whole + '{"type":"evalu')
    answer = tinynas("search", *little(data, "study", trials=2), "--json")
    assert answer.json["trials"] == 2
    assert "cut off in the middle" in answer.err
    assert journal.read_text() == whole
    Path("study/cost_model_first.json").write_text("{}")
    assert "does not hold a cost model" in failed(tinynas, "report", "study")


def test_a_study_that_was_killed_while_it_began(tinynas: Tinynas, data: Path) -> None:
    options = little(data, "study", trials=2)
    assert tinynas("search", *options).code == 0
    journal = Path("study/journal.jsonl")
    journal.write_text("")
    Path("study/cost_model_first.json").unlink()
    assert tinynas("report", "study").code == 0
    assert "no candidates yet" in failed(tinynas, "export", "study", "-o", "out")
    journal.unlink()
    assert tinynas("report", "study").code == 0
    assert tinynas("search", *options, "--json").json["trials"] == 2


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = home / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free_bytes: int = 0) -> None:
    """Leave so much free; a later call may leave more."""
    (disk / "filler").unlink(missing_ok=True)
    with (disk / "filler").open("wb") as file:
        file.write(b"x" * max(0, shutil.disk_usage(disk).free - free_bytes))


@pytest.mark.parametrize("free_bytes", [0, 8_192, 12_288, 65_536])
def test_a_full_disk_stops_a_search_that_then_goes_on(
    free_bytes: int, tinynas: Tinynas, data: Path, small_disk: Path
) -> None:
    study = small_disk / "study"
    fill(small_disk, free_bytes)
    assert "the disk is full" in failed(tinynas, "search", *little(data, study, trials=4))
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert tinynas("search", *little(data, study, trials=4), "--json").json["trials"] == 4
    fill(small_disk)
    assert "full" in failed(tinynas, "report", study) or "No space" in failed(tinynas, "report", study)
    assert not (study / "report.html").exists()
    (small_disk / "filler").unlink()
    assert tinynas("report", study).code == 0


def test_a_full_disk_leaves_no_half_of_a_file(tinynas: Tinynas, model: Path, small_disk: Path) -> None:
    fill(small_disk, 16_384)
    assert "No space left" in failed(tinynas, "compile", model, "-o", small_disk / "c")
    left = [path for path in (small_disk / "c").rglob("*") if path.is_file()]
    assert all(path.suffix in (".c", ".h") for path in left)
    assert all(path.read_text().endswith("\n") for path in left)


def test_a_full_disk_under_the_store_and_the_build(
    tinynas: Tinynas, model: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    fill(small_disk)
    monkeypatch.setenv("TINYNAS_STORE", str(small_disk / "store.sqlite"))
    assert "set TINYNAS_STORE" in failed(tinynas, "measure", model, "--board", "emulator")
    monkeypatch.delenv("TINYNAS_STORE")
    fill(small_disk, 100_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    assert "set XDG_CACHE_HOME" in failed(tinynas, "measure", model, "--board", "emulator")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_output_that_cannot_be_written(as_json: list[str], spawn: Spawn) -> None:
    with Path("/dev/full").open("w") as full:
        answer = finish(spawn("devices", *as_json, stdout=full))
    assert Answer(answer.code, "", answer.err).error.startswith("the disk is full")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_closed_pipe_is_quiet(as_json: list[str], spawn: Spawn) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("devices", *as_json, stdout=writer)
    os.close(writer)
    assert finish(process).err == ""


def test_ctrl_c_is_one_line_and_the_study_goes_on(spawn: Spawn, tinynas: Tinynas, data: Path) -> None:
    options = [*little(data, "study", trials=3), "--json"]
    process = spawn("search", *options)
    while not Path("study/journal.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130
    message = answer.err.rstrip("\n").split("\n")[-1]
    assert message == "tinynas: interrupted; the same command goes on from here"
    assert answer.json == {"error": message.removeprefix("tinynas: ")}
    assert "Traceback" not in answer.err
    assert tinynas("search", *options).json["trials"] == 3


def test_a_terminal_that_cannot_show_a_name(spawn: Spawn, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    answer = finish(spawn("check", model))
    assert (answer.code, answer.err) == (0, "")
