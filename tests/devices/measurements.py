"""An example of what boards measure."""

from __future__ import annotations

from devices.board import Measurement

EMULATED = Measurement(
    board="emulator:netduinoplus2",
    device="stm32f405",
    model_id="0123456789abcdef",
    latency_ms=1.25,
    cycles=178_000,
    instructions=150_000,
    layer_cycles=(100_000, 78_000),
    runs=5,
    clock_hz=168_000_000,
    sram_bytes=4_096,
    flash_bytes=20_000,
    code_bytes=1_500,
    firmware_sha256="ab" * 32,
    toolchain="arm-none-eabi-gcc 12.2.1",
)
"""Of a model with two layers."""
