"""Building the firmware: what the map says, and a clear sentence for each way to fail."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devices import firmware
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, build_cycle_counter, build_firmware, read_symbols
from devices.profile import load_profile
from tests.devices.toy_models import need, write_model

F405 = load_profile("stm32f405")


def section_sizes(elf: Path) -> dict[str, int]:
    text = subprocess.run(["arm-none-eabi-size", "-A", str(elf)], capture_output=True, text=True, check=True).stdout
    return {
        fields[0]: int(fields[1])
        for line in text.splitlines()
        if len(fields := line.split()) == 3 and fields[0] != "section"
    }


@pytest.mark.parametrize("arena_bytes", [64, 65, 30_001])
def test_the_image_reports_what_the_linker_placed(compiler: None, tmp_path: Path, arena_bytes: int) -> None:
    image = build_firmware(write_model(tmp_path / "model", arena_bytes=arena_bytes), F405, tmp_path / "out")
    sizes = section_sizes(image.elf)
    assert image.arena_bytes == arena_bytes == sizes[".bss.tn_arena"]
    # The flat binary is the flash's content, but for the gaps that align the sections.
    assert 0 <= image.bin.stat().st_size - image.flash_bytes < 64
    assert 0 < image.code_bytes < sizes[".text"]
    assert image.sha256 == hashlib.sha256(image.bin.read_bytes()).hexdigest()
    assert image.model_id == "0123456789abcdef"
    assert "arm-none-eabi-gcc" in image.toolchain


def test_code_is_the_models_functions_and_the_kernels_they_use(toy_image: FirmwareImage) -> None:
    symbols = read_symbols(toy_image.elf)
    functions = [
        size for name, (_, size) in symbols.items() if re.match(r"tn_(model_(input|output|invoke)$|layer_)", name)
    ]
    assert sum(functions) <= toy_image.code_bytes <= sum(functions) + 4 * len(functions)


def test_the_profile_reserves_what_the_harness_takes(toy_image: FirmwareImage) -> None:
    sizes = section_sizes(toy_image.elf)
    assert 0 <= F405.reserved.sram_bytes - (sizes[".stack"] + sizes[".data"] + sizes[".bss"]) < 16
    assert toy_image.flash_bytes - toy_image.code_bytes == pytest.approx(F405.reserved.flash_bytes, rel=0.02)


def test_two_builds_in_different_places_are_the_same(
    compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_firmware(write_model(tmp_path / "a" / "model"), F405, tmp_path / "a" / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-cache"))
    second = build_firmware(write_model(tmp_path / "b b" / "model"), F405, tmp_path / "b b" / "out")
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert str(tmp_path).encode() not in first.elf.read_bytes()


def test_builds_side_by_side_do_not_disturb_each_other(
    compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def build(index: int) -> FirmwareImage:
        folder = tmp_path / str(index)
        return build_firmware(write_model(folder / "model", arena_bytes=64 + index), F405, folder / "out")

    with ThreadPoolExecutor(4) as pool:
        assert [image.arena_bytes for image in pool.map(build, range(4))] == [64, 65, 66, 67]


def test_a_model_too_large_for_the_sram_says_by_how_much(compiler: None, tmp_path: Path) -> None:
    fits = build_firmware(write_model(tmp_path / "model"), F405, tmp_path / "out")
    sizes = section_sizes(fits.elf)
    left = F405.sram_bytes - sizes[".stack"] - sizes[".data"] - sizes[".bss"]
    # What lies behind the arena is aligned to eight bytes.
    most = left // 8 * 8
    build_firmware(write_model(tmp_path / "model", arena_bytes=most), F405, tmp_path / "out")
    with pytest.raises(DeviceError, match=f"does not fit stm32f405: it exceeds the SRAM by {1000 - left % 8} bytes"):
        build_firmware(write_model(tmp_path / "model", arena_bytes=most + 1000), F405, tmp_path / "out")


def test_a_model_too_large_for_the_flash_says_by_how_much(compiler: None, tmp_path: Path) -> None:
    weights = "extern const int8_t weights[1 << 20];\nconst int8_t weights[1 << 20] = {1};"
    layer = "for (int i = 0; i < 64; ++i) tn_arena[i] = weights[(uint8_t)tn_arena[i]];"
    with pytest.raises(DeviceError, match=r"it exceeds the flash by \d+ bytes"):
        build_firmware(write_model(tmp_path / "model", [layer], before=weights), F405, tmp_path / "out")


def test_a_source_that_does_not_compile_gives_its_first_error(compiler: None, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"did not build: .*error: .*nonsense") as caught:
        build_firmware(write_model(tmp_path / "model", ["nonsense;"]), F405, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "firmware.elf").exists()


def test_a_folder_without_a_model_is_refused(compiler: None, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"holds no model\.c"):
        build_firmware(tmp_path, F405, tmp_path / "out")


def test_a_device_without_firmware_names_those_that_have_one(compiler: None, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no firmware for the device 'stm32f746' yet; choose one of .*stm32f405"):
        build_firmware(write_model(tmp_path / "model"), load_profile("stm32f746"), tmp_path / "out")


def test_a_missing_cross_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="arm-none-eabi-gcc was not found; install gcc-arm-none-eabi"):
        build_firmware(write_model(tmp_path / "model"), F405, tmp_path / "out")


def test_a_missing_host_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="install gcc"):
        build_cycle_counter()


def test_a_missing_c_library_says_what_to_install() -> None:
    error = "harness/protocol.c:9:10: fatal error: string.h: No such file or directory"
    assert "libnewlib-arm-none-eabi" in firmware._explain(error, F405)


def test_a_full_disk_is_named() -> None:
    error = "x.s: Assembler messages:\nfatal error: cannot write to output file 'x.o': No space left on device"
    assert "the disk is full" in firmware._explain(error, F405)


def test_nothing_is_written_beside_the_sources(toy_image: FirmwareImage) -> None:
    need("git")
    if not (firmware.SOURCE_DIR.parent / ".git").exists():
        pytest.skip("not a git checkout")
    built = [path for path in firmware.SOURCE_DIR.rglob("*") if path.suffix in {".o", ".a", ".elf", ".so", ".map"}]
    assert built == []


def test_sources_in_a_read_only_place_will_do(compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(firmware.SOURCE_DIR, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(firmware, "SOURCE_DIR", copy)
    image = build_firmware(write_model(tmp_path / "model"), F405, tmp_path / "out")
    assert image.arena_bytes == 64
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
