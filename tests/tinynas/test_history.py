"""What was measured can be told again, compared, repeated, and read by other tools."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from devices.board import Image, Measurement, OperatorTime
from devices.errors import DeviceError
from devices.host.closing import Closing
from devices.statistics import summarize
from devices.store import MeasurementStore, Provenance
from tests.devices.measurements import EMULATED
from tests.devices.toy_models import need
from tests.tinynas.conftest import Tinynas
from tinynas.commands import boards
from tinynas.commands.history import moment_of
from tinynas.errors import SearchError
from tinynas.models import load_model

ONE = replace(
    EMULATED,
    latency_ms=2.0,
    cycles=300_000,
    instructions=250_000,
    layer_cycles=(200_000, 100_000),
    runs=1,
    latencies_ms=(2.0,),
)
ORIGIN = Provenance(
    board_kind="emulated",
    host="bench, Linux",
    command=("tinynas", "measure", "my net.tflite", "--board", "emulator"),
    folder="/home/me",
    inputs="one",
    compiler_flags="-O2",
    tinynas_version="0.1",
    git_commit="abcdef",
    versions={"qemu": "7.2"},
)
REAL = replace(ORIGIN, board_kind="serial")


def serial_measurement(*latencies_ms: float, board: str = "bench-3") -> Measurement:
    """Repetitions on a real board."""
    median = summarize(latencies_ms).median
    return replace(ONE, board=board, instructions=None, latency_ms=median, latencies_ms=latencies_ms, runs=7)


@pytest.fixture
def store(home: Path) -> MeasurementStore:
    return MeasurementStore()


# The command


def test_nothing_yet(tinynas: Tinynas) -> None:
    answer = tinynas("history", "--json")
    assert (answer.code, answer.json["measurements"]) == (0, [])
    assert "no measurement" in answer.err


def test_the_newest_come_first_and_all_is_said(tinynas: Tinynas, store: MeasurementStore) -> None:
    store.add(ONE, "toy", features_version="5", provenance=ORIGIN)
    store.add(serial_measurement(*[2.0, 2.01, 1.99, 2.0, 2.005, 1.995, 2.0]), "toy", provenance=REAL)
    newest, oldest = tinynas("history", "--json").json["measurements"]
    assert (newest["id"], oldest["id"]) == (2, 1)
    assert oldest["statistics"] == {
        "count": 1,
        "median_ms": 2.0,
        "mean_ms": 2.0,
        "half_width": 0.0,  # the emulator counts: once says all
        "interval_ms": [2.0, 2.0],
        "outliers": [],
        "drift": None,
        "throttled": False,
        "warnings": [],
    }
    assert newest["statistics"]["count"] == 7
    assert newest["statistics"]["interval_ms"] == [1.99, 2.01]
    assert (oldest["command"], oldest["folder"]) == ("tinynas measure 'my net.tflite' --board emulator", "/home/me")
    assert (oldest["git_commit"], oldest["versions"], oldest["features_version"]) == ("abcdef", {"qemu": "7.2"}, "5")

    lines = tinynas("history").out.splitlines()
    assert lines[0].split()[:2] == ["id", "time,"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "1"]
    assert "2 ms ± 0.5 %" in lines[1]
    assert "300,000" in lines[2]
    assert "01234567" in lines[2]


def test_what_is_asked_for(tinynas: Tinynas, store: MeasurementStore, model: Path) -> None:
    store.add(ONE, "toy", provenance=ORIGIN)
    store.add(replace(ONE, device="mps2-an386"), "toy", provenance=ORIGIN)
    store.add(replace(ONE, model_id="feed" * 4, board="bench-3"), "other", provenance=REAL)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    store.add(ONE, "small", provenance=replace(ORIGIN, model_sha256=sha256))

    def ids(*arguments: object) -> list[int]:
        return [m["id"] for m in tinynas("history", "--json", *arguments).json["measurements"]]

    assert ids() == [4, 3, 2, 1]
    assert ids("--limit", 2) == [4, 3]
    assert ids("--device", "mps2-an386") == [2]
    assert ids("--board", "bench-3") == [3]
    assert ids("--board", "emulator") == [4, 2, 1]
    assert ids("other") == [3]
    assert ids("feedfe") == [3]
    assert ids(model) == [4]
    assert ids("toy", "--device", "stm32f405") == [1]
    assert ids("--since", "1h") == [4, 3, 2, 1]
    assert ids("--since", "2999-01-01") == []
    assert ids("nosuch") == []


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", datetime(2026, 3, 1, 10, 30, tzinfo=UTC)),
        ("12h", datetime(2026, 3, 1, 0, 0, tzinfo=UTC)),
        ("1d", datetime(2026, 2, 28, 12, 0, tzinfo=UTC)),
        ("2w", datetime(2026, 2, 15, 12, 0, tzinfo=UTC)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T08:00", datetime(2026, 2, 1, 8, tzinfo=UTC)),
        ("2026-02-01T08:00+02:00", datetime(2026, 2, 1, 6, tzinfo=UTC)),
    ],
)
def test_since_when(text: str, moment: datetime) -> None:
    assert moment_of(text, datetime(2026, 3, 1, 12, 0, tzinfo=UTC)) == moment


@pytest.mark.parametrize("text", ["yesterday", "", "7", "7y", "2026-13-01", "999999w", "0001-01-01T00:00+23:00"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(SearchError, match="is no time"):
        moment_of(text, datetime.now(UTC))


def test_one_in_full(tinynas: Tinynas, store: MeasurementStore) -> None:
    phone = replace(
        serial_measurement(10.0, 10.1, 9.9, 10.0, 10.2, 10.0, 31.0, board="pixel"),
        cycles=None,
        layer_cycles=(),
        operators=(OperatorTime("conv_1", "CONV_2D", 9.5),),
        conditions={"core mask": "f0", "warnings": "the battery is low; charge it"},
    )
    identifier = store.add(phone, "toy", provenance=replace(REAL, board_kind="adb", note="on the window-sill"))
    (found,) = tinynas("history", identifier, "--json").json["measurements"]
    assert found["latencies_ms"] == list(phone.latencies_ms)
    assert found["operators"] == [{"name": "conv_1", "kind": "CONV_2D", "latency_ms": 9.5}]
    assert found["statistics"]["outliers"] == [6]
    answer = tinynas("history", f"#{identifier}")
    for text in ("run 7", "f0", "conv_1", "on the window-sill", "cd /home/me && tinynas measure 'my net.tflite'"):
        assert text in answer.out
    assert "warning: after 7 runs the median is known within ±" in answer.err
    assert "3.10 times the median" in answer.err
    assert "warning: the battery is low; charge it" in answer.err


def test_an_id_that_is_none(tinynas: Tinynas, store: MeasurementStore) -> None:
    assert "there is no measurement 7 in" in tinynas("history", "7").error
    store.add(ONE, "toy")
    assert "the newest is 1" in tinynas("history", "7").error


def test_a_damaged_row_is_named_and_the_others_told(tinynas: Tinynas, store: MeasurementStore) -> None:
    for _ in range(3):
        store.add(ONE, "toy", provenance=ORIGIN)
    connection = sqlite3.connect(store.path)
    connection.execute("DROP TRIGGER measurements_never_change")
    connection.execute("UPDATE measurements SET latencies_ms = '[2.0' WHERE id = 2")
    connection.commit()
    connection.close()
    answer = tinynas("history", "--json")
    assert [m["id"] for m in answer.json["measurements"]] == [3, 1]
    assert len(answer.json["unreadable"]) == 1
    assert answer.err.count("measurement 2 in the store") == 1
    assert answer.json["measurements"][0]["comparison"]["measurement_id"] == 1
    assert "measurement 2 in the store" in tinynas("history", "2").error


def test_compared_with_the_time_before(tinynas: Tinynas, store: MeasurementStore) -> None:
    quick = serial_measurement(10.0, 10.01, 9.99, 10.0, 10.02, 9.98, 10.0)
    wide = serial_measurement(10.0, 12.0, 8.0, 11.0, 11.5, 12.5, 11.4)
    slow = serial_measurement(*(1.2 * value for value in quick.latencies_ms))
    for measurement, origin in (
        (quick, REAL),
        (ONE, ORIGIN),  # the emulator's figure is no step on a real board's way
        (wide, REAL),  # 14 % more, but who knows
        (quick, REAL),
        (slow, REAL),
    ):
        store.add(measurement, "toy", provenance=origin)
    found = {m["id"]: m["comparison"] for m in tinynas("history", "--json").json["measurements"]}
    assert found[1] is None
    assert found[2] is None
    assert (found[3]["measurement_id"], found[3]["is_regression"]) == (1, False)
    assert found[3]["ratio"] == pytest.approx(1.14, abs=0.001)
    assert (found[5]["measurement_id"], found[5]["is_regression"]) == (4, True)
    assert found[5]["ratio"] == pytest.approx(1.2)
    lines = tinynas("history").out.splitlines()
    assert "×1.200 REGRESSION" in lines[1]
    assert sum("REGRESSION" in line for line in lines) == 1
    again = tinynas("history", "--json", "--max-regression", 25).json["measurements"]
    assert not any(m["comparison"] and m["comparison"]["is_regression"] for m in again)


# Files for other tools


def test_the_csv_has_every_column_and_keeps_every_value(tinynas: Tinynas, store: MeasurementStore, home: Path) -> None:
    name = 'a "net", with\nlines, ü'
    store.add(replace(ONE, conditions={"port": "/dev/x, y"}), name, ({"kind": "CONV_2D"}, {}), provenance=ORIGIN)
    store.add(serial_measurement(*([2.0] * 6 + [2.5])), "=1+1", provenance=replace(REAL, note="@SUM(A1)"))
    assert tinynas("history", "--csv", "out/all.csv").code == 0
    content = (home / "out" / "all.csv").read_bytes().decode()
    assert content.count("\r\n") == 3
    rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    assert [row["id"] for row in rows] == ["2", "1"]
    assert rows[1]["model"] == name
    assert json.loads(rows[1]["conditions"]) == {"port": "/dev/x, y"}
    assert json.loads(rows[1]["layer_cycles"]) == [200_000, 100_000]
    assert json.loads(rows[1]["layer_features"]) == [{"kind": "CONV_2D"}, {}]
    assert shlex.split(rows[1]["command"]) == list(ORIGIN.command)
    assert json.loads(rows[0]["latencies_ms"]) == [2.0] * 6 + [2.5]
    assert rows[0]["board"] == "bench-3"
    assert rows[0]["outliers"] == "[6]"
    # No spreadsheet takes a name for a formula.
    assert (rows[0]["model"], rows[0]["note"]) == ("'=1+1", "'@SUM(A1)")
    columns = {name for _, name, *_ in sqlite3.connect(store.path).execute("PRAGMA table_info(measurements)")}
    renamed = {"model_hash": "model_id", "model_name": "model"}
    assert {renamed.get(column, column) for column in columns} <= set(rows[0])
    assert None not in rows[0]


def test_the_csv_of_nothing_has_a_header(tinynas: Tinynas, home: Path) -> None:
    tinynas("history", "--csv", "none.csv")
    assert (home / "none.csv").read_bytes().startswith(b"id,created_at,model,")


def test_a_file_that_cannot_be_written_is_an_error(tinynas: Tinynas, home: Path) -> None:
    (home / "file").write_text("")
    for option in ("--csv", "--junit"):
        assert "file/out" in tinynas("history", option, "file/out").error


# The schema of Jenkins' xUnit plugin, junit-10.xsd, as far as our report goes into it.
ATTRIBUTES = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
    ),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name"}, {"time", "classname", "group"}),
    "failure": (set(), {"type", "message"}),
    "system-out": (set(), set()),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testsuite", "properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}
SUREFIRE_TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?")


def check_schema(element: ElementTree.Element) -> None:
    required, optional = ATTRIBUTES[element.tag]
    assert required <= set(element.attrib) <= required | optional
    assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    if "time" in element.attrib:
        assert SUREFIRE_TIME.fullmatch(element.attrib["time"])
    if element.tag == "testsuite":
        assert int(element.attrib["tests"]) == len(element.findall("testcase"))
        assert int(element.attrib["failures"]) == len(element.findall("testcase[failure]"))
    for child in element:
        check_schema(child)


def report(tinynas: Tinynas, home: Path, *arguments: object) -> ElementTree.Element:
    assert tinynas("history", "--junit", "report.xml", *arguments).code == 0
    root = ElementTree.parse(home / "report.xml").getroot()
    check_schema(root)
    assert int(root.attrib["tests"]) == len(list(root.iter("testcase")))
    assert int(root.attrib["failures"]) == len(
        [case for case in root.iter("testcase") if case.find("failure") is not None]
    )
    return root


def test_the_junit_report(tinynas: Tinynas, store: MeasurementStore, home: Path) -> None:
    store.add(ONE, "toy", provenance=ORIGIN)
    store.add(serial_measurement(*[5.0] * 20, *[6.0] * 10), "bad \x1b[31m <name> & \ufffe", provenance=REAL)
    store.add(replace(ONE, latency_ms=2.2, latencies_ms=(2.2,)), "toy", provenance=ORIGIN)
    root = report(tinynas, home)
    assert root.attrib["tests"] == "3"
    assert root.attrib["failures"] == "0"
    newest, bad, oldest = root
    assert (newest.attrib["name"], newest.attrib["hostname"]) == ("emulator:netduinoplus2", "bench")
    properties = {p.attrib["name"]: p.attrib["value"] for p in bad.iter("property")}
    assert properties["board"] == "bench-3"
    assert properties["firmware_sha256"] == ONE.firmware_sha256
    assert properties["git_commit"] == "abcdef"
    assert properties["versions.qemu"] == "7.2"
    assert properties["command"] == "tinynas measure 'my net.tflite' --board emulator"
    case = bad.find("testcase")
    assert case is not None
    assert case.attrib["name"] == "bad ?[31m <name> & ? (01234567)"
    assert float(case.attrib["time"]) == pytest.approx(5.0e-3)
    assert "the last 10 runs took 20% longer" in str(case.findtext("system-out"))
    # The newest has the name that the next build's will have.
    assert [s.find("testcase").attrib["name"] for s in (newest, oldest)] == ["toy (01234567)", "toy (01234567) #1"]  # type: ignore[union-attr]


def test_failures_in_the_junit_report(tinynas: Tinynas, store: MeasurementStore, home: Path) -> None:
    for latency_ms in (2.0, 2.2, 2.21):
        store.add(replace(ONE, latency_ms=latency_ms, latencies_ms=(latency_ms,)), "toy", provenance=ORIGIN)

    def failures(*arguments: object) -> list[list[tuple[str, str]]]:
        root = report(tinynas, home, *arguments)
        return [
            [(f.attrib["type"], f.attrib["message"]) for f in case.iter("failure")] for case in root.iter("testcase")
        ]

    assert failures() == [[], [], []]
    slow = failures("--max-latency-ms", "2.205")
    assert [len(found) for found in slow] == [1, 0, 0]
    assert slow[0][0] == (
        "latency",
        "toy takes 2.21 ms on emulator:netduinoplus2 (stm32f405), more than the limit of 2.205 ms",
    )
    assert [[kind for kind, _ in found] for found in failures("--max-regression", 5)] == [[], ["regression"], []]
    assert [[kind for kind, _ in found] for found in failures("--max-regression", 0.1)] == [["regression"]] * 2 + [[]]
    both = failures("--max-regression", 0.1, "--max-latency-ms", 1)
    assert [[kind for kind, _ in found] for found in both] == [["latency", "regression"]] * 2 + [["latency"]]
    assert "10.0% longer than the 2 ms of measurement 1, and the limit is 0.1 %" in both[1][1][1]


# Measuring


class Bench(Closing):
    """A real board, but for the board."""

    name = "bench-3"

    def __init__(self, latencies_ms: Sequence[float], layers: int) -> None:
        self.layers = layers
        self.latencies_ms = tuple(latencies_ms)
        self.runs: list[int | None] = []

    def flash(self, image: Image) -> None:
        self.image = image

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        self.runs.append(runs)
        return Measurement.of_image(
            self.image,
            board=self.name,
            clock_hz=168_000_000,
            latency_ms=summarize(self.latencies_ms).median,
            cycles=1000,
            instructions=None,
            layer_cycles=(100,) * self.layers,
            runs=len(self.latencies_ms),
            latencies_ms=self.latencies_ms,
            conditions={"port": "/dev/null"},
        )

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        raise DeviceError("not asked for")

    def close(self) -> None: ...


@pytest.fixture
def compiler() -> None:
    need("arm-none-eabi-gcc", "make")


def measured(board: Bench, tinynas: Tinynas, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[Any, str]:
    monkeypatch.setattr(boards, "resolve_board", lambda *_: board)
    answer = tinynas("measure", "small.tflite", "--board", "bench-3", "--device", "stm32f405", "--json", *arguments)
    assert answer.code == 0, answer.err
    return answer.json, answer.err


@pytest.mark.usefixtures("compiler", "model")
def test_measuring_warns_keeps_and_compares(tinynas: Tinynas, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = len(load_model(Path("small.tflite")).graph.operators)
    steady = Bench([2.0, 2.001, 1.999, 2.0, 2.002, 1.998, 2.0], layers)
    first, said = measured(steady, tinynas, monkeypatch, "--note", "cold")
    assert steady.runs == [None]
    assert "warning" not in said
    assert first["statistics"]["half_width"] == pytest.approx(0.001)
    assert first["statistics"]["warnings"] == []
    assert first["conditions"] == {"port": "/dev/null"}
    assert first["comparison"] is None

    hot = Bench([2.0] * 20 + [2.4] * 20, layers)
    second, said = measured(hot, tinynas, monkeypatch, "--runs", 40)
    assert hot.runs == [40]
    assert second["statistics"]["throttled"]
    assert second["comparison"]["measurement_id"] == first["measurement_id"]
    for warning in second["statistics"]["warnings"]:
        assert f"warning: {warning}" in said.replace("\n", " ")
    assert "the last 20 runs took 20% longer than those before: the board throttles; cool it" in said

    (kept,) = tinynas("history", first["measurement_id"], "--json").json["measurements"]
    assert (kept["note"], kept["model"], kept["latency_ms"]) == ("cold", "small", first["latency_ms"])
    assert "-mcpu=cortex-m4" in kept["compiler_flags"]
    (by_file, _) = tinynas("history", "small.tflite", "--json").json["measurements"]
    assert by_file["id"] == second["measurement_id"]


@pytest.mark.usefixtures("model")
def test_an_emulated_board_is_measured_once_and_says_how(
    tinynas: Tinynas, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    arguments = ["measure", "small.tflite", "--board", "emulator", "--json"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/tinynas", *arguments])
    answer = tinynas(*arguments)
    assert answer.json["runs"] == 1
    assert answer.json["statistics"]["half_width"] == 0.0
    (kept,) = tinynas("history", answer.json["measurement_id"], "--json").json["measurements"]
    assert kept["board_kind"] == "emulated"
    assert kept["command"] == "tinynas measure small.tflite --board emulator --json"
    assert kept["folder"] == str(home)
    assert "QEMU" in kept["versions"]["qemu"]
    # The command as it was kept gives the same figure again.
    monkeypatch.chdir(kept["folder"])
    again = tinynas(*shlex.split(kept["command"])[1:]).json
    assert (again["cycles"], again["firmware_sha256"]) == (kept["cycles"], kept["firmware_sha256"])
    assert again["comparison"]["ratio"] == 1.0


def test_a_store_that_cannot_be_used_is_told_before_the_board_is_touched(
    tinynas: Tinynas, model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "measurements.sqlite").write_bytes(b"no database, but long enough to look like one" * 100)

    def never(*_: object) -> None:
        raise AssertionError("the board was opened")

    monkeypatch.setattr(boards, "resolve_board", never)
    assert "cannot use the measurement store" in tinynas("measure", model, "--board", "emulator").error
