"""The dimensions that codestreams declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.emulator.imaging.codestreams import dimensions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ENCODERS: dict[str, Callable[[NDArray[Any]], bytes | bytearray]] = {
    "jpeg": lambda image: imagecodecs.jpeg8_encode(image),
    "jpeg-lossless": lambda image: imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=1, bitspersample=8
    ),
    "jpeg-ls": lambda image: imagecodecs.jpegls_encode(image),
    "jpeg-2000": lambda image: imagecodecs.jpeg2k_encode(image, codecformat="j2k"),
    "jp2": lambda image: imagecodecs.jpeg2k_encode(image, codecformat="jp2"),
    "htj2k": lambda image: imagecodecs.htj2k_encode(image),
    "jpeg-xl": lambda image: imagecodecs.jpegxl_encode(image, usecontainer=False),
    "jpeg-xl-container": lambda image: imagecodecs.jpegxl_encode(image, usecontainer=True),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "shape", [(8, 8), (64, 128), (100, 200), (513, 1025), (2000, 3), (240, 320), (33, 35)]
)
def test_declared_dimensions_are_those_of_the_image(name: str, shape: tuple[int, int]) -> None:
    assert dimensions(bytes(ENCODERS[name](np.zeros(shape, np.uint8)))) == shape


@given(
    st.binary(max_size=64),
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\x0a", b"\xff\x4f\xff\x51"]),
)
def test_other_bytes_have_some_or_no_dimensions(rest: bytes, start: bytes) -> None:
    found = dimensions(start + rest)
    assert found is None or all(isinstance(number, int) for number in found)
