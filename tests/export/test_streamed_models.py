"""Generated models whose layers are streamed: what the C does row by row, on the host and on the emulated board."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devices.board import Board
from devices.boards import resolve_board
from devices.firmware import build_firmware
from devices.profile import load_profile
from export.atomic import write_bytes
from export.codegen import generate, write_model
from export.graph import Activation, Graph
from export.kernels import kernels_of, tensors_in_planes
from export.planner import plan
from export.verify_plan import verify_plan
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.export.host_build import KERNELS, STRICT, build_kernels, host_compiler
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

DEVICE = "mps2-an386"

# Breaks an inference off, starts another, and pushes one row too many.
PUSHING = """#include <stdio.h>
#include <string.h>
#include "model.h"
int main(void) {
  static char input[TN_MODEL_INPUT_BYTES];
  int complete = 0, rows = 0;
  if (fread(input, sizeof input, 1, stdin) != 1) return 2;
  tn_model_begin();
  for (int i = 0; i < TN_MODEL_INPUT_ROWS / 2; i++) tn_model_push_row(input);
  tn_model_begin();
  while (!complete) complete = tn_model_push_row(input + TN_MODEL_INPUT_ROW_BYTES * rows++);
  if (rows != TN_MODEL_INPUT_ROWS || !tn_model_push_row(input)) return 3;
  fwrite(tn_model_output(), TN_MODEL_OUTPUT_BYTES, 1, stdout);
  tn_model_invoke(input);
  fwrite(tn_model_output(), TN_MODEL_OUTPUT_BYTES, 1, stdout);
  return 0;
}
"""


def bottleneck() -> Graph:
    """A stem, an inverted bottleneck with its sum, and a mean."""
    builder = GraphBuilder((1, 24, 18, 3))
    stem = builder.conv(builder.input, 8, (3, 3), (2, 2), activation=Activation.RELU6)
    value = builder.conv(stem, 16, activation=Activation.RELU6)
    value = builder.conv(builder.depthwise(value, activation=Activation.RELU6), 8)
    value = builder.add(stem, value)
    return builder.finish(builder.mean(value))


def expected(graph: Graph, value: np.ndarray) -> np.ndarray:
    (found,) = run_reference(write_tflite(graph), [value])
    return found


def random_input() -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (1, 24, 18, 3), dtype=np.int8)


def test_rows_may_be_pushed_one_by_one_or_all_at_once(tmp_path: Path) -> None:
    model, value = generate(bottleneck(), stream_input=True), random_input()
    kernels = build_kernels(tmp_path, "-O1")
    for name, text in {**model.files, "main.c": PUSHING}.items():
        (tmp_path / name).write_text(text)
    command = [host_compiler(), *STRICT, f"-I{KERNELS}", "model.c", "main.c", str(kernels), "-o", "program"]
    subprocess.run(command, check=True, cwd=tmp_path)
    done = subprocess.run([str(tmp_path / "program")], input=value.tobytes(), capture_output=True, check=True)
    assert done.stdout == 2 * expected(bottleneck(), value).tobytes()


def test_the_order_is_that_of_the_plan() -> None:
    model = generate(bottleneck(), stream_input=True)
    table = re.search(r"tn_model_order\[TN_MODEL_STEPS\] = \{([^}]*)\}", model.files["model.c"])
    assert table is not None
    order = [int(entry) for entry in table.group(1).replace("\n", " ").split(",") if entry.strip()]
    assert order == [255 if layer < 0 else layer for layer in model.plan.order]
    assert order.count(255) == 24
    assert f"#define TN_MODEL_STEPS {len(order)}\n" in model.files["model.h"]


def test_layers_that_run_whole_need_no_order() -> None:
    planned = plan(bottleneck(), streams=False)
    verify_plan(planned)
    files = write_model(planned).files
    assert "tn_model_order" not in files["model.c"] + files["model.h"]


def test_planes_lie_between_convolutions_and_depthwise_layers() -> None:
    graph = bottleneck()
    expanded = graph.operators[1].outputs[0]
    assert tensors_in_planes(graph, kernels_of(graph, "dsp")) == {expanded}
    assert not tensors_in_planes(graph, kernels_of(graph, "generic"))


def test_what_others_read_is_not_in_planes() -> None:
    builder = GraphBuilder((1, 8, 8, 4))
    shared = builder.conv(builder.input, 8, activation=Activation.RELU6)
    both = builder.finish(builder.add(shared, builder.depthwise(shared, activation=Activation.RELU6)))
    assert not tensors_in_planes(both, kernels_of(both, "dsp"))
    builder = GraphBuilder((1, 8, 8, 4))
    output = builder.finish(builder.conv(builder.input, 8, activation=Activation.RELU6))
    assert not tensors_in_planes(output, kernels_of(output, "dsp"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with resolve_board("emulator", DEVICE) as found:
            yield found


@pytest.mark.parametrize("stream_input", [False, True], ids=["input", "rows"])
def test_the_board_counts_the_rows_of_every_layer(stream_input: bool, board: Board, tmp_path: Path) -> None:
    model = generate(bottleneck(), "dsp", stream_input=stream_input)
    assert model.plan.streamed_layers
    for name, text in model.files.items():
        write_bytes(tmp_path / "model" / name, text.encode())
    board.flash(build_firmware(tmp_path / "model", load_profile(DEVICE), tmp_path))
    value = random_input()
    measured = board.measure([value.tobytes()], 2)
    walk = measured.cycles - sum(measured.layer_cycles)
    assert all(cycles > 100 for cycles in measured.layer_cycles)
    copied = value.size if stream_input else 0
    assert 0 < walk < 20 * len(model.plan.order) + 4 * copied
    (found,) = board.outputs([value.tobytes()])
    assert found == expected(bottleneck(), value).tobytes()
