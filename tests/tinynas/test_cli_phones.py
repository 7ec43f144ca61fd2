"""measure and verify on a phone: a stand-in behind the real adb."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.adb_faults import private_adb
from tests.devices.phone.fake_adbd import FakePhone
from tests.devices.phone.phone_tools import BENCHMARK_MODEL, make_phone, write_benchmark_model
from tests.devices.toy_models import need
from tests.tinynas.conftest import Tinynas


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FakePhone]:
    need("adb")
    with private_adb(tmp_path), make_phone(tmp_path / "phone") as stand_in:
        yield stand_in


def test_measure_has_the_keys_of_every_board(phone: FakePhone, tinynas: Tinynas, model: Path, tmp_path: Path) -> None:
    tool = write_benchmark_model(tmp_path / "tool")
    board = ["--board", f"adb:{phone.serial}", "--benchmark-model", tool]
    found = tinynas("measure", model, *board, "--device", "pixel2", "--threads", "2", "--note", "mine", "--json").json
    assert found["latency_ms"] == pytest.approx(12.3455)
    assert (found["board"], found["device"]) == (f"adb:{phone.serial}", "pixel2")
    assert (found["cycles"], found["instructions"], found["code_bytes"]) == (None, None, None)
    assert found["flash_bytes"] == model.stat().st_size
    assert found["sram_bytes"] == round(6.25 * 2**20)
    assert found["firmware_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert found["statistics"]["count"] == 5
    assert (found["conditions"]["threads"], found["conditions"]["core_mask"]) == ("2", "c")
    assert [set(layer) for layer in found["layers"]] == [{"name", "kind", "latency_ms", "macs", "cycles"}] * 2
    assert found["layers"][0]["latency_ms"] == pytest.approx(9.259)
    assert found["layers"][0]["cycles"] is None
    shown = tinynas("measure", model, *board, "--runs", "60")
    assert "latency 12.35 ms" in shown.out
    assert "(android)" in shown.out
    (first, *_) = tinynas("history", "1", "--json").json["measurements"]
    assert first["board"] == f"adb:{phone.serial}"


def test_verify_refuses_what_is_no_output_of_the_model(
    phone: FakePhone, tinynas: Tinynas, model: Path, tmp_path: Path
) -> None:
    tool = write_benchmark_model(tmp_path / "tool")
    board = ["--board", f"adb:{phone.serial}", "--benchmark-model", tool, "--inputs", "2"]
    assert "outputs of another size" in tinynas("verify", model, *board, "--json").json["error"]
    tool.write_text("#!/bin/sh\n" + BENCHMARK_MODEL.replace("--output_filepath=*)", "--nothing=*)"))
    assert "--output_filepath" in tinynas("verify", model, *board, "--json").json["error"]


def test_without_a_benchmark_model_it_is_told_where_it_comes_from(
    phone: FakePhone, tinynas: Tinynas, model: Path
) -> None:
    message = tinynas("measure", model, "--board", f"adb:{phone.serial}", "--json").json["error"]
    assert "--benchmark-model" in message
    assert "bazel build" in message
