"""The harness as a program of the host, in real time, with a model whose outputs and ticks tell every input apart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.devices.toy_models import compile_harness, write_model

LIVE_INPUT_BYTES = 96
LIVE_MODEL_ID = "0123456789abcdef"
BAUDS = (115_200, 230_400, 921_600)

_BEFORE = '#include "live_board.h"\n\nstatic uint32_t hash;\n'
_LAYERS = (
    # FNV-1a of the input, which the ticks and the output follow from.
    "hash = 2166136261u;\n"
    f"  for (int i = 0; i < {LIVE_INPUT_BYTES}; ++i) hash = (hash ^ (uint8_t)tn_arena[i]) * 16777619u;\n"
    "  live_compute(5000u + hash % 100000u);",
    "for (int i = 0; i < 4; ++i) tn_arena[i] = (int8_t)(uint8_t)(hash >> 8 * i);\n  live_compute(700u + hash % 251u);",
)


def live_output(data: bytes) -> bytes:
    """What the model gives for an input."""
    return _hash(data).to_bytes(4, "little")


def live_layer_ticks(data: bytes) -> tuple[int, int]:
    """What its layers take."""
    return 5000 + _hash(data) % 100_000, 700 + _hash(data) % 251


def live_ticks(data: bytes) -> int:
    """What one inference takes."""
    return sum(live_layer_ticks(data))


def _hash(data: bytes) -> int:
    value = 2_166_136_261
    for byte in data:
        value = (value ^ byte) * 16_777_619 & 0xFFFFFFFF
    return value


def build_live_board(folder: Path, free_bytes: int = 4096, model_id: str = LIVE_MODEL_ID) -> Path:
    """Compile it; without ``free_bytes`` for a copy of the input, an input serves one inference."""
    model = write_model(
        folder / "model", _LAYERS, arena_bytes=LIVE_INPUT_BYTES, input_bytes=LIVE_INPUT_BYTES, before=_BEFORE
    )
    header = model / "model.h"
    header.write_text(header.read_text().replace(LIVE_MODEL_ID, model_id))
    return compile_harness(model, "live_board.c", free_bytes, "-O1")


class LiveBoard:
    """The program, running at the other end of a socket. A restart cuts off all that is on the way."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self.boots = 0
        self._start()

    def _start(self) -> None:
        self._socket, other = socket.socketpair()
        self._told, tells = os.pipe()
        os.set_blocking(self._told, False)
        self._process = subprocess.Popen([str(self._program)], stdin=other, stdout=other, stderr=tells)
        os.close(tells)
        other.close()
        self.boots += 1
        self._baud = BAUDS[0]

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        """What it says, empty when it has ended."""
        try:
            return self._socket.recv(65_536)
        except ConnectionResetError:
            return b""

    @property
    def baud(self) -> int:
        """The speed at its end."""
        with suppress(BlockingIOError):
            for number in os.read(self._told, 64):
                self._baud = BAUDS[number - ord("0")]
        return self._baud

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.restart()

    def freeze(self, frozen: bool) -> None:
        """Stop it where it is, or let it go on."""
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def install(self, program: Path) -> None:
        """Write another program to its flash, and start that."""
        self._program = program
        self.restart()

    def restart(self) -> None:
        """Cut its power for a moment."""
        self.close()
        self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._told)
