"""Hand-made models in the generator's form, for tests of everything below the generator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from devices.firmware import SOURCE_DIR

INPUT_BYTES = 64
OUTPUT_BYTES = 4
HALF_AND_SUM = (
    # Two layers in place: every byte changes, then four sums of sixteen.
    "for (int i = 0; i < 64; ++i) tn_arena[i] = (int8_t)(tn_arena[i] ^ 0x5A);",
    "int32_t sums[4] = {0};\n"
    "  for (int i = 0; i < 64; ++i) sums[i & 3] += tn_arena[i];\n"
    "  for (int o = 0; o < 4; ++o) tn_arena[o] = (int8_t)(sums[o] / 16);",
)

PLAIN_HEADER = """void *tn_model_input(void);
void tn_model_invoke(void);
"""
PLAIN_INVOKE = """void *tn_model_input(void) { return tn_arena; }
void tn_model_invoke(void) {
  for (int i = 0; i < TN_MODEL_LAYERS; ++i) tn_model_layers[i]();
}
"""
STREAMED_HEADER = f"""{PLAIN_HEADER}void tn_model_prepare(void);
"""
STREAMED_INVOKE = """void *tn_model_input(void) { return tn_arena; }
void tn_model_prepare(void) { row = 0; }
void tn_model_invoke(void) {
  row = 0;
  for (int i = 0; i < TN_MODEL_STEPS; ++i) tn_model_layers[tn_model_order[i]]();
}
"""
STREAMED_INPUT_HEADER = """#define TN_MODEL_INPUT_ROWS 4
#define TN_MODEL_INPUT_ROW_BYTES 16
#define TN_MODEL_INPUT_ROW 255
void tn_model_prepare(void);
void tn_model_take_row(const void *row, unsigned index);
void tn_model_invoke(const void *input);
"""
STREAMED_INPUT_INVOKE = """void tn_model_prepare(void) { row = 0; }
void tn_model_take_row(const void *taken, unsigned index) {
  for (int i = 0; i < 16; ++i) tn_arena[16 * index + i] = ((const int8_t *)taken)[i];
}
void tn_model_invoke(const void *input) {
  row = 0;
  for (int i = 0; i < TN_MODEL_STEPS; ++i) {
    if (tn_model_order[i] == 255) {
      tn_model_take_row((const int8_t *)input + 16 * row, (unsigned)row);
    } else {
      tn_model_layers[tn_model_order[i]]();
    }
  }
}
"""


def expected_output(data: bytes) -> bytes:
    """What HALF_AND_SUM computes, in Python."""
    signed = [(byte ^ 0x5A) - 256 * ((byte ^ 0x5A) > 127) for byte in data]
    sums = [sum(signed[o::4]) for o in range(4)]
    return bytes(int(total / 16) & 0xFF for total in sums)


def write_model(
    folder: Path,
    layers: Sequence[str] = HALF_AND_SUM,
    *,
    arena_bytes: int = INPUT_BYTES,
    input_bytes: int = INPUT_BYTES,
    attributes: str = "noinline",
    before: str = "",
    declared: str = PLAIN_HEADER,
    invoked: str = PLAIN_INVOKE,
) -> Path:
    """Write model.c and model.h with one function body per layer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.h").write_text(
        f"""#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>
#define TN_MODEL_NAME "toy"
#define TN_MODEL_ID "0123456789abcdef"
#define TN_MODEL_ARENA_BYTES {arena_bytes}
#define TN_MODEL_INPUT_BYTES {input_bytes}
#define TN_MODEL_INPUT_ELEMENT_BYTES 1
#define TN_MODEL_INPUT_SCALE 0.5f
#define TN_MODEL_INPUT_ZERO_POINT (-3)
#define TN_MODEL_OUTPUT_BYTES {OUTPUT_BYTES}
#define TN_MODEL_OUTPUT_ELEMENT_BYTES 1
#define TN_MODEL_OUTPUT_SCALE 0.00390625f
#define TN_MODEL_OUTPUT_ZERO_POINT (-128)
#define TN_MODEL_LAYERS {len(layers)}
const void *tn_model_output(void);
extern void (*const tn_model_layers[TN_MODEL_LAYERS])(void);
{declared}
#endif
"""
    )
    functions = "\n".join(
        f"static __attribute__(({attributes})) void tn_layer_{i:03}(void) {{\n  {body}\n}}"
        for i, body in enumerate(layers)
    )
    names = ", ".join(f"tn_layer_{i:03}" for i in range(len(layers)))
    (folder / "model.c").write_text(
        f"""#include "model.h"

#include "tn_kernels.h"

static int8_t tn_arena[TN_MODEL_ARENA_BYTES] __attribute__((section(".bss.tn_arena"), aligned(4)));
{before}
{functions}
void (*const tn_model_layers[TN_MODEL_LAYERS])(void) = {{{names}}};
const void *tn_model_output(void) {{ return tn_arena; }}
{invoked}
"""
    )
    return folder


def write_streamed_model(folder: Path, *, stream_input: bool = False) -> Path:
    """The same function, whose first layer changes a row of sixteen bytes each time; perhaps with a streamed input."""
    layers = (
        "for (int i = 0; i < 16; ++i) tn_arena[16 * row + i] = (int8_t)(tn_arena[16 * row + i] ^ 0x5A);\n  row++;",
        HALF_AND_SUM[1],
    )
    order = (255, 0, 255, 0, 255, 0, 255, 0, 1) if stream_input else (0, 0, 0, 0, 1)
    declared = f"#define TN_MODEL_STEPS {len(order)}\nextern const uint8_t tn_model_order[TN_MODEL_STEPS];\n"
    declared += STREAMED_INPUT_HEADER if stream_input else STREAMED_HEADER
    invoked = f"const uint8_t tn_model_order[TN_MODEL_STEPS] = {{{', '.join(map(str, order))}}};\n"
    invoked += STREAMED_INPUT_INVOKE if stream_input else STREAMED_INVOKE
    return write_model(folder, layers, before="static int row;", declared=declared, invoked=invoked)


def compile_harness(model: Path, platform: str, free_bytes: int, *flags: str) -> Path:
    """The harness with ``model`` as a program of the host; ``platform`` names a source file beside this one."""
    need("cc")
    here = Path(__file__).parent
    program = model.parent / "harness"
    sources = [SOURCE_DIR / "harness" / name for name in ("protocol.c", "model_info.c")]
    sources += [model / "model.c", here / platform]
    includes = [f"-I{path}" for path in (SOURCE_DIR / "harness", SOURCE_DIR / "kernels", model, here)]
    flags = ("-std=c99", "-g", "-Wall", "-Wextra", "-Werror", f"-DFREE_BYTES={free_bytes}", *flags)
    subprocess.run(["cc", *flags, *includes, *map(str, sources), "-o", str(program)], check=True)
    return program


def need(*tools: str) -> None:
    """Skip the test when a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
