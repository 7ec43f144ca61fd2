"""The benchmark of the kernels: its floors are the published prototypes', and it counts what the board counts."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import kernels, narrowing, parallel_boards
from export.graph import macs
from tests.devices.toy_models import need


def test_every_case_is_one_layer_of_its_own() -> None:
    cases = kernels.cases()
    assert len({(case.group, case.label, case.note) for case in cases}) == len(cases)
    for case in cases:
        graph = kernels.graph_of(case)
        assert len(graph.operators) == (2 if case.note else 1)
        assert kernels.work_of(graph, graph.operators[-1])[0] > 0


@pytest.mark.parametrize(
    ("case", "cycles_per_mac"),
    [
        *((kernels.conv((12, 12, depth), 32), best) for depth, best in [(16, 1.49), (64, 1.10), (256, 1.02)]),
        *((kernels.conv((12, 12, depth), 16, 3), best) for depth, best in [(16, 1.04), (64, 1.00)]),
        (kernels.conv((48, 48, 3), 16, 3, 2), 1.66),
        *((next(kernels.depthwise((12, width, 16))), best) for width, best in [(6, 2.45), (12, 2.19), (48, 1.93)]),
        (next(kernels.depthwise((12, 24, 16), 3, 2)), 2.59),
        (kernels.fully_connected(640, 128), 1.18),
    ],
)
def test_a_floor_is_what_a_prototype_reached(case: kernels.Case, cycles_per_mac: float) -> None:
    graph = kernels.graph_of(case)
    (operator,) = graph.operators
    floor = kernels.floor_cycles(graph, operator)
    assert floor is not None
    assert floor / macs(graph, operator) == pytest.approx(cycles_per_mac, rel=0.04)


def test_it_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--json", "--only", "3x3/2 12x6x16"])
    kernels.main()
    rows = json.loads(capsys.readouterr().out)["kernels"]
    assert [row["note"] for row in rows] == ["", "fed by 1x1"]
    for row in rows:
        assert row["work"] == 6 * 3 * 16 * 9
        assert row["work"] < row["instructions"] < row["cycles"]
        assert row["ratio"] == pytest.approx(row["cycles_per_work"] / row["floor"])


def test_rankings_of_sub_spaces_differ_by_the_planner() -> None:
    found = narrowing.rankings("stm32f405", 144, samples=4)
    assert found["sub_spaces"] == 108
    best, layer_by_layer = found["ours"][0], found["layer_by_layer"][0]
    # Streamed, larger networks fit.
    assert best["mean_macs"] > 1.5 * layer_by_layer["layer_by_layer_mean_macs"]
    assert found["place_of_layer_by_layer_best_in_ours"] > 1
    assert found["kendall_tau"] < 0.8


def test_boards_at_once_are_held_against_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    options = ["--boards", "2", "--models", "3", "--devices", "stm32f405", "--json"]
    monkeypatch.setattr(sys, "argv", ["parallel_boards.py", *options])
    monkeypatch.setenv("TINYNAS_BOARDS", "")  # which it sets
    with pytest.raises(SystemExit, match="0"):
        parallel_boards.main()
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert (row["boards"], row["identical"], row["failures"]) == (2, 3, 0)
    assert len(set(row["cycles"])) == 3
