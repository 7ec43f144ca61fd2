"""UF2, the file format of boot loaders that show up as a USB drive: a program in blocks of a drive's sector.

Format and family numbers: Microsoft's specification, https://github.com/microsoft/uf2.
"""

from __future__ import annotations

import struct

from devices.errors import DeviceError

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
"""Per block, as the RP2040's boot loader asks for: one page of its flash (RP2040 datasheet, UF2 format details)."""
_MAGIC = (0x0A324655, 0x9E5D5157)
_MAGIC_END = 0x0AB16F30
_FAMILY_PRESENT = 0x2000
_HEADER = struct.Struct("<8I")


def write_uf2(program: bytes, address: int, family: int) -> bytes:
    """``program`` for flash from ``address`` on, for chips of a UF2 ``family``; its last page is filled with zeros."""
    pages = [program[at : at + PAYLOAD_BYTES] for at in range(0, len(program), PAYLOAD_BYTES)]
    blocks = []
    for index, page in enumerate(pages):
        header = _HEADER.pack(
            *_MAGIC, _FAMILY_PRESENT, address + index * PAYLOAD_BYTES, PAYLOAD_BYTES, index, len(pages), family
        )
        filled = page.ljust(BLOCK_BYTES - _HEADER.size - 4, b"\0")
        blocks.append(header + filled + _MAGIC_END.to_bytes(4, "little"))
    return b"".join(blocks)


def read_uf2(content: bytes) -> tuple[bytes, int, int]:
    """The program, its address and its family, as a boot loader would take them from the blocks.

    Raises DeviceError when a block is not valid, or is missing, or when they do not follow one another.
    """
    if not content or len(content) % BLOCK_BYTES:
        raise DeviceError(f"a UF2 file has whole blocks of {BLOCK_BYTES} bytes, and this one has {len(content)} bytes")
    program, start, families = bytearray(), None, set()
    for position in range(0, len(content), BLOCK_BYTES):
        block = content[position : position + BLOCK_BYTES]
        first, second, flags, address, size, number, count, family = _HEADER.unpack_from(block)
        end = int.from_bytes(block[-4:], "little")
        if (first, second, end) != (*_MAGIC, _MAGIC_END) or size > BLOCK_BYTES - _HEADER.size - 4:
            raise DeviceError(f"block {position // BLOCK_BYTES} of the UF2 file is no UF2 block")
        start = address if start is None else start
        whole = number == position // BLOCK_BYTES and count == len(content) // BLOCK_BYTES
        if not whole or address != start + len(program) or flags != _FAMILY_PRESENT:
            raise DeviceError(f"block {position // BLOCK_BYTES} of the UF2 file does not follow the one before it")
        program += block[_HEADER.size : _HEADER.size + size]
        families.add(family)
    if start is None or len(families) != 1:
        raise DeviceError("the UF2 file is for more than one kind of chip")
    return bytes(program), start, families.pop()
