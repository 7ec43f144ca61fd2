"""Hand-made models in the generator's form, for tests of everything below the generator."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

INPUT_BYTES = 64
OUTPUT_BYTES = 4
HALF_AND_SUM = (
    # Two layers in place: every byte changes, then four sums of sixteen.
    "for (int i = 0; i < 64; ++i) tn_arena[i] = (int8_t)(tn_arena[i] ^ 0x5A);",
    "int32_t sums[4] = {0};\n"
    "  for (int i = 0; i < 64; ++i) sums[i & 3] += tn_arena[i];\n"
    "  for (int o = 0; o < 4; ++o) tn_arena[o] = (int8_t)(sums[o] / 16);",
)


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
#define TN_MODEL_OUTPUT_BYTES {OUTPUT_BYTES}
#define TN_MODEL_OUTPUT_ELEMENT_BYTES 1
#define TN_MODEL_OUTPUT_SCALE 0.00390625f
#define TN_MODEL_OUTPUT_ZERO_POINT (-128)
#define TN_MODEL_LAYERS {len(layers)}
void *tn_model_input(void);
const void *tn_model_output(void);
void tn_model_invoke(void);
extern void (*const tn_model_layers[TN_MODEL_LAYERS])(void);
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
void *tn_model_input(void) {{ return tn_arena; }}
const void *tn_model_output(void) {{ return tn_arena; }}
void tn_model_invoke(void) {{
  for (int i = 0; i < TN_MODEL_LAYERS; ++i) tn_model_layers[i]();
}}
"""
    )
    return folder


def need(*tools: str) -> None:
    """Skip the test when a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
