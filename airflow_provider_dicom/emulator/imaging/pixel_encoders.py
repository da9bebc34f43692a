"""Encoders: from frames of stored values to the codestreams of DICOM's encapsulated transfer syntaxes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import imagecodecs
import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from pydicom import uid
from pydicom.pixels.encoders.base import ENCODING_PROFILES, RLELosslessEncoder
from pydicom.pixels.processing import convert_color_space

from airflow_provider_dicom.emulator.imaging.pixel_decoders import (
    DEFLATED_IMAGE_FRAME,
    GREYSCALE,
    JPEG_XL,
    JPEG_XL_LOSSLESS,
    CannotTranscode,
    Frame,
    PixelFormat,
    native_bytes,
)

JPEG_QUALITY = 90
NEAR_LOSSLESS_ERROR = 2
#: dB, for 8 bits; see ``_encode_jpeg_2000_lossy``.
JPEG_2000_PSNR = 45
# OpenJPH: a tile-part per resolution.
_BY_RESOLUTION = 1

#: Photometric interpretation, samples per pixel, pixel representations, bits allocated, bits stored.
Profile: TypeAlias = tuple[str, int, Iterable[int], Iterable[int], Iterable[int]]


@dataclass(frozen=True)
class Codec:
    """How to encode frames in one transfer syntax.

    :param encode: returns the codestream of one frame.
    :param profiles: the pixel formats that the standard permits (PS3.5, section 8.2).
    :param bits: the maximum of BitsStored that the encoder supports.
    :param signed: whether the encoder preserves negative values.
    :param photometric: photometric interpretation of the frames -> of the encoded instance, if it differs.
    :param planar_configuration: PlanarConfiguration of encoded colour images.
    :param lossy_method: LossyImageCompressionMethod of a lossy encoder; None for a lossless one.
    """

    encode: Callable[[Frame, PixelFormat], bytes]
    profiles: Collection[Profile]
    bits: int = 16
    signed: bool = True
    photometric: Mapping[str, str] = field(default_factory=dict)
    planar_configuration: int = 0
    lossy_method: str | None = None

    def declared_photometric(self, decoded: str) -> str:
        """Return the photometric interpretation of the encoded instance.

        :param decoded: the photometric interpretation of the frames.
        """
        return self.photometric.get(decoded, decoded)

    def check(self, pixels: PixelFormat) -> None:
        """Check that the transfer syntax and the encoder support a pixel format.

        :raises CannotTranscode: one of them does not.
        """
        photometric = self.declared_photometric(pixels.photometric)
        if not any(
            photometric == profile[0]
            and pixels.samples == profile[1]
            and int(pixels.signed) in profile[2]
            and pixels.bits_allocated in profile[3]
            and pixels.bits_stored in profile[4]
            for profile in self.profiles
        ):
            raise CannotTranscode(
                f"the transfer syntax does not hold {pixels.samples} samples of {photometric} with "
                f"{pixels.bits_stored} of {pixels.bits_allocated} bits, {'' if pixels.signed else 'un'}signed"
            )
        if pixels.bits_stored > self.bits or (pixels.signed and not self.signed):
            raise CannotTranscode(
                f"there is no encoder for {pixels.bits_stored} bits, {'' if pixels.signed else 'un'}signed"
            )


def _pattern(frame: Frame, pixels: PixelFormat) -> Frame:
    """Return the stored bits as unsigned values in the smallest cells, for encoders without signed values."""
    unsigned = frame.astype(frame.dtype.str.replace("i", "u"), copy=False) & ((1 << pixels.bits_stored) - 1)
    return unsigned.astype(np.uint8 if pixels.bits_stored <= 8 else np.uint16, copy=False)


def _small(frame: Frame, pixels: PixelFormat) -> Frame:
    """Return values in the smallest cells, for encoders that derive the bit depth from the cell."""
    return (
        frame if pixels.bits_stored > 8 else frame.astype(np.int8 if pixels.signed else np.uint8, copy=False)
    )


def _encode_jpeg_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    bits = 8 if pixels.bits_stored <= 8 else 12
    if pixels.samples == 1:
        return bytes(imagecodecs.jpeg8_encode(frame, JPEG_QUALITY, bitspersample=bits))
    return bytes(
        imagecodecs.jpeg8_encode(
            frame,
            JPEG_QUALITY,
            colorspace="RGB" if pixels.photometric == "RGB" else "YCBCR",
            outcolorspace="YCBCR",
            subsampling="422",
            bitspersample=bits,
        )
    )


def _encode_jpeg_lossless(frame: Frame, pixels: PixelFormat) -> bytes:
    # First-order prediction is valid in both lossless syntaxes. RGB on both sides prevents a colour
    # conversion, whatever the colour space is.
    colours = "RGB" if pixels.samples == 3 else None
    return bytes(
        imagecodecs.jpeg8_encode(
            _pattern(frame, pixels),
            colorspace=colours,
            outcolorspace=colours,
            lossless=True,
            predictor=1,
            bitspersample=pixels.bits_stored,
        )
    )


def _encode_jpeg_ls(frame: Frame, pixels: PixelFormat, error: int = 0) -> bytes:
    pattern = _pattern(frame, pixels)
    if pixels.bits_stored in (8, 16):
        return bytes(imagecodecs.jpegls_encode(pattern, error))
    # Only this library accepts values with fewer bits than their cells.
    return bytes(
        jpeg_ls.encode_pixel_data(
            pattern.tobytes(),
            rows=pixels.rows,
            columns=pixels.columns,
            samples_per_pixel=pixels.samples,
            bits_stored=pixels.bits_stored,
            planar_configuration=0,
            lossy_error=error,
        )
    )


def _encode_jpeg_ls_near(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_jpeg_ls(frame, pixels, NEAR_LOSSLESS_ERROR)


def _encode_jpeg_2000(frame: Frame, pixels: PixelFormat, psnr: int = 0) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(
            _small(frame, pixels),
            psnr,
            codecformat="j2k",
            reversible=psnr == 0,
            bitspersample=pixels.bits_stored,
            mct=pixels.photometric == "RGB",
        )
    )


def _encode_jpeg_2000_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    # PSNR is relative to the largest value: 6 dB more per bit keep the error at about one grey level.
    return _encode_jpeg_2000(frame, pixels, JPEG_2000_PSNR + 6 * (pixels.bits_stored - 8))


def _encode_htj2k(frame: Frame, pixels: PixelFormat, *, reversible: bool = True, rpcl: bool = False) -> bytes:
    # Codestreams always declare 8, 16 or 32 bits: the library has no parameter for fewer.
    # The encoder's progression order is always RPCL; the RPCL syntax also requires TLM markers and a
    # tile-part per resolution.
    return bytes(
        imagecodecs.htj2k_encode(
            _small(frame, pixels),
            rgb=pixels.photometric == "RGB",
            reversible=reversible,
            tlm=rpcl,
            tilepart=_BY_RESOLUTION if rpcl else None,
        )
    )


def _encode_htj2k_rpcl(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_htj2k(frame, pixels, rpcl=True)


def _encode_htj2k_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    return _encode_htj2k(frame, pixels, reversible=False)


def _encode_jpeg_xl(frame: Frame, pixels: PixelFormat) -> bytes:
    return bytes(
        imagecodecs.jpegxl_encode(
            _pattern(frame, pixels),
            lossless=True,
            bitspersample=pixels.bits_stored,
            usecontainer=False,
            numthreads=1,
        )
    )


def _encode_jpeg_xl_lossy(frame: Frame, pixels: PixelFormat) -> bytes:
    if pixels.photometric == "YBR_FULL":
        frame = convert_color_space(frame, "YBR_FULL", "RGB")
    # The distance is about what the eye notices on a screen; deeper values are windowed for the screen later,
    # which amplifies errors.
    distance = 1.0 if pixels.bits_stored <= 8 else 0.05
    return bytes(
        imagecodecs.jpegxl_encode(
            _pattern(frame, pixels),
            distance=distance,
            bitspersample=pixels.bits_stored,
            usecontainer=False,
            numthreads=1,
        )
    )


def _encode_rle(frame: Frame, pixels: PixelFormat) -> bytes:
    return RLELosslessEncoder.encode(
        frame,
        rows=pixels.rows,
        columns=pixels.columns,
        samples_per_pixel=pixels.samples,
        bits_allocated=pixels.bits_allocated,
        bits_stored=pixels.bits_allocated,
        pixel_representation=int(pixels.signed),
        photometric_interpretation=pixels.photometric,
        number_of_frames=1,
        planar_configuration=0,
    )


def _encode_deflated(frame: Frame, pixels: PixelFormat) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(native_bytes(frame, pixels)) + deflate.flush()


_ANY_CELL: tuple[Profile, ...] = tuple(
    (photometric, samples, (0, 1), (1, 8, 16, 32, 64), range(1, 65))
    for photometric, samples in [
        *((name, 1) for name in (*GREYSCALE, "PALETTE COLOR")),
        ("RGB", 3),
        ("YBR_FULL", 3),
    ]
)
# An assumption: the standard's tables for JPEG XL were not consulted. JPEG XL has no signed values, and its
# lossy encoder codes colours as XYB.
_JPEG_XL_PROFILES: tuple[Profile, ...] = tuple(
    (photometric, samples, (0,), (8, 16), range(1, 17))
    for photometric, samples in [
        ("MONOCHROME1", 1),
        ("MONOCHROME2", 1),
        ("RGB", 3),
        ("YBR_FULL", 3),
        ("XYB", 3),
    ]
)

_DEFLATED = Codec(_encode_deflated, _ANY_CELL, bits=64)

#: The encapsulated syntaxes that frames can be encoded in (JPEG recompression needs a JPEG instead).
CODECS: dict[str, Codec] = {
    uid.JPEGBaseline8Bit: Codec(
        _encode_jpeg_lossy,
        ENCODING_PROFILES[uid.JPEGBaseline8Bit],
        photometric={"RGB": "YBR_FULL_422", "YBR_FULL": "YBR_FULL_422"},
        lossy_method="ISO_10918_1",
    ),
    uid.JPEGExtended12Bit: Codec(
        _encode_jpeg_lossy, ENCODING_PROFILES[uid.JPEGExtended12Bit], lossy_method="ISO_10918_1"
    ),
    uid.JPEGLossless: Codec(_encode_jpeg_lossless, ENCODING_PROFILES[uid.JPEGLossless]),
    uid.JPEGLosslessSV1: Codec(_encode_jpeg_lossless, ENCODING_PROFILES[uid.JPEGLosslessSV1]),
    uid.JPEGLSLossless: Codec(_encode_jpeg_ls, ENCODING_PROFILES[uid.JPEGLSLossless]),
    # The encoder has no signed values: an error of 1 in the bits of -1 would turn it into the largest value.
    uid.JPEGLSNearLossless: Codec(
        _encode_jpeg_ls_near,
        ENCODING_PROFILES[uid.JPEGLSNearLossless],
        signed=False,
        lossy_method="ISO_14495_1",
    ),
    uid.JPEG2000Lossless: Codec(
        _encode_jpeg_2000,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.JPEG2000: Codec(
        _encode_jpeg_2000_lossy,
        ENCODING_PROFILES[uid.JPEG2000],
        bits=24,
        photometric={"RGB": "YBR_ICT"},
        lossy_method="ISO_15444_1",
    ),
    JPEG_XL_LOSSLESS: Codec(_encode_jpeg_xl, _JPEG_XL_PROFILES),
    JPEG_XL: Codec(
        _encode_jpeg_xl_lossy,
        _JPEG_XL_PROFILES,
        photometric={"RGB": "XYB", "YBR_FULL": "XYB"},
        lossy_method="ISO_18181_1",
    ),
    uid.HTJ2KLossless: Codec(
        _encode_htj2k,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.HTJ2KLosslessRPCL: Codec(
        _encode_htj2k_rpcl,
        ENCODING_PROFILES[uid.JPEG2000Lossless],
        bits=24,
        photometric={"RGB": "YBR_RCT"},
    ),
    uid.HTJ2K: Codec(
        _encode_htj2k_lossy,
        ENCODING_PROFILES[uid.JPEG2000],
        bits=24,
        photometric={"RGB": "YBR_ICT"},
        lossy_method="ISO_15444_15",
    ),
    uid.RLELossless: Codec(_encode_rle, ENCODING_PROFILES[uid.RLELossless], planar_configuration=1),
    DEFLATED_IMAGE_FRAME: _DEFLATED,
}
