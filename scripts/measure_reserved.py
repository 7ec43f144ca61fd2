#!/usr/bin/env python3
"""Measures what start-up code, stack and harness take on every emulated board, and writes it into the profiles.

Run it after changing the harness, a board or the compiler; a test compares the profiles with real builds.
Usage: python -m scripts.measure_reserved [--write]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from devices.firmware import read_symbols
from devices.profile import DeviceProfile, device_names, load_profile
from export.atomic import write_bytes
from export.synthetic import with_random_weights
from scripts.single_layers import single_layer_graphs
from tinynas.measuring import build_image

PROFILES = Path(__file__).resolve().parent.parent / "devices" / "profiles"


def emulated_profiles() -> list[DeviceProfile]:
    """The profiles that have an emulated board."""
    return [profile for profile in map(load_profile, device_names()) if profile.emulator is not None]


def reserved_bytes(profile: DeviceProfile, folder: Path) -> tuple[int, int]:
    """SRAM and flash bytes of an image whose model has one layer, without that layer and its arena."""
    view = with_random_weights(single_layer_graphs()[0])
    image = build_image(view, profile, folder)
    symbols = read_symbols(image.elf)
    stack_bottom = symbols["tn_stack_top"][0] - symbols["TN_STACK_BYTES"][0]
    layer = sum(-(-symbols[name][1] // 4) * 4 for name in ("tn_layer_000", "tn_model_layers"))
    return symbols["tn_bss_end"][0] - stack_bottom - image.arena_bytes, image.flash_bytes - layer


def with_reserved(text: str, sram_bytes: int, flash_bytes: int) -> str:
    """The text of a profile with other figures in its table of what is reserved."""
    head, table, rest = re.split(r"(?<=\n)(\[reserved\]\n.*?\n)(?=\n\[)", text, maxsplit=1, flags=re.DOTALL)
    for name, count in (("sram_bytes", sram_bytes), ("flash_bytes", flash_bytes)):
        table = re.sub(rf"^{name} = [\d_]+", f"{name} = {count:_}", table, flags=re.MULTILINE)
    return head + table + rest


def main(write: bool) -> None:
    """Measure every board, print its figures, and write them if asked to."""
    for profile in emulated_profiles():
        with tempfile.TemporaryDirectory() as folder:
            sram_bytes, flash_bytes = reserved_bytes(profile, Path(folder))
        print(f"{profile.name}: {sram_bytes} bytes of SRAM, {flash_bytes} bytes of flash")
        if write:
            path = PROFILES / f"{profile.name}.toml"
            write_bytes(path, with_reserved(path.read_text(encoding="utf-8"), sram_bytes, flash_bytes).encode())


if __name__ == "__main__":
    main(write="--write" in sys.argv[1:])
