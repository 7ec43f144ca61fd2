"""Builds generated models with the host's compiler and runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.codegen import GeneratedModel
from export.graph import Tensor

KERNELS = Path(__file__).resolve().parents[2] / "firmware" / "kernels"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

# Reads inputs until there are no more, and answers each with its output.
MAIN = """#include <stdio.h>
#include "model.h"
#ifdef TN_MODEL_INPUT_ROWS
static int infer(void) {
  static char row[TN_MODEL_INPUT_ROW_BYTES];
  int complete = 0;
  tn_model_begin();
  for (int i = 0; i < TN_MODEL_INPUT_ROWS; i++) {
    if (complete || fread(row, sizeof row, 1, stdin) != 1) return 0;
    complete = tn_model_push_row(row);
  }
  return complete;
}
#else
static int infer(void) {
  if (fread(tn_model_input(), TN_MODEL_INPUT_BYTES, 1, stdin) != 1) return 0;
  tn_model_invoke();
  return 1;
}
#endif
int main(void) {
  while (infer()) {
    if (fwrite(tn_model_output(), TN_MODEL_OUTPUT_BYTES, 1, stdout) != 1) return 1;
  }
  return 0;
}
"""


def host_compiler() -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    return compiler


def build_kernels(folder: Path, *flags: str) -> Path:
    """Every kernel in one archive."""
    sources = [str(path) for path in sorted(KERNELS.glob("tn_*.c"))]
    subprocess.run([host_compiler(), *STRICT, *flags, "-c", *sources], check=True, cwd=folder)
    archive = folder / "kernels.a"
    subprocess.run(["ar", "rc", str(archive), *map(str, sorted(folder.glob("tn_*.o")))], check=True)
    return archive


def build_model(model: GeneratedModel, kernels: Path, folder: Path, *flags: str) -> Path:
    """The program that answers every input on its standard input with an output."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in model.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    program = folder / "program"
    files = [str(folder / "model.c"), str(folder / "main.c"), str(kernels), "-o", str(program)]
    done = subprocess.run(
        [host_compiler(), *STRICT, *flags, f"-I{KERNELS}", f"-I{folder}", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def run_program(program: Path, inputs: list[np.ndarray], output: Tensor) -> list[np.ndarray]:
    done = subprocess.run([str(program)], input=b"".join(value.tobytes() for value in inputs), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    size = output.size_bytes
    assert len(done.stdout) == size * len(inputs)
    return [
        np.frombuffer(done.stdout[start : start + size], output.dtype.value).reshape(output.shape)
        for start in range(0, len(done.stdout), size)
    ]
