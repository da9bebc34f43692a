"""The dimensions that codestreams declare, which decoders allocate memory for before anything else."""

from __future__ import annotations

import struct

#: Markers of JPEG and JPEG-LS frame headers.
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
#: Markers of JPEG without a length.
_BARE = {0x01, *range(0xD0, 0xD9)}
_JPEG_2000 = b"\xff\x4f\xff\x51"
_JPEG_XL = b"\xff\x0a"
#: A codestream in a container: whole, or its first part, which begins with a number of four bytes.
_JPEG_XL_BOXES = (b"jxlc" + _JPEG_XL, b"jxlp\0\0\0\0" + _JPEG_XL)
#: Numerators and denominators of width : height (ISO/IEC 18181-1, SizeHeader).
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


def dimensions(codestream: bytes) -> tuple[int, int] | None:
    """Return the rows and columns of the image in a codestream; None if they are unknown.

    :param codestream: in JPEG, JPEG-LS, JPEG 2000 or JPEG XL.
    """
    try:
        if codestream.startswith(b"\xff\xd8"):
            return _of_jpeg(codestream)
        if codestream.startswith(_JPEG_XL):
            return _of_jpeg_xl(codestream[2:14])
        for box in _JPEG_XL_BOXES:
            if (start := codestream.find(box, 0, 4096)) >= 0:
                return _of_jpeg_xl(codestream[start + len(box) :][:12])
        if (start := codestream.find(_JPEG_2000, 0, 4096)) >= 0:
            right, bottom, left, top = struct.unpack_from(">4I", codestream, start + 8)
            return bottom - top, right - left
    except (struct.error, IndexError):
        return None
    return None


def _of_jpeg(codestream: bytes) -> tuple[int, int] | None:
    position = 2
    while codestream[position] == 0xFF:
        marker = codestream[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _BARE:
            position += 2
        elif marker in _FRAME_HEADERS:
            rows, columns = struct.unpack_from(">2H", codestream, position + 5)
            return (rows, columns) if rows else None
        else:
            (length,) = struct.unpack_from(">H", codestream, position + 2)
            position += 2 + length
    return None


def _of_jpeg_xl(header: bytes) -> tuple[int, int]:
    bits = int.from_bytes(header, "little")

    def take(count: int) -> int:
        nonlocal bits
        taken = bits & ((1 << count) - 1)
        bits >>= count
        return taken

    def size() -> int:
        return 8 * (take(5) + 1) if is_small else take(_SIZE_BITS[take(2)]) + 1

    is_small = take(1)
    rows = size()
    ratio = take(3)
    if not ratio:
        return rows, size()
    numerator, denominator = _RATIOS[ratio - 1]
    return rows, rows * numerator // denominator
