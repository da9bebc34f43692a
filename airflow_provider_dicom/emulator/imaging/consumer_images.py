"""PNG and JPEG images of frames, with the window, the palette and the colour space applied."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
    convert_color_space,
)

from airflow_provider_dicom.emulator.imaging.pixel_decoders import GREYSCALE, CannotTranscode, Frame, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

JPEG_QUALITY = 90
# Functional groups of enhanced multi-frame instances that affect the display of a frame.
_DISPLAY_SEQUENCES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def consumer_images(ds: Dataset, kind: Literal["PNG", "JPEG"]) -> Iterator[bytes]:
    """Yield every frame as an 8-bit image file.

    :raises CannotTranscode: the photometric interpretation is unknown.
    """
    for index, (frame, photometric) in enumerate(decode(ds)):
        image = Image.fromarray(_displayed(frame, photometric, _display_attributes(ds, index)))
        file = io.BytesIO()
        image.save(file, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
        yield file.getvalue()


def _displayed(frame: Frame, photometric: str, ds: Dataset) -> NDArray[np.uint8]:
    if photometric in GREYSCALE:
        grey = _windowed(frame, ds)
        return 255 - grey if photometric == "MONOCHROME1" else grey
    if photometric == "PALETTE COLOR":
        colour = apply_color_lut(frame, ds)
        return (colour >> 8).astype(np.uint8) if colour.dtype.itemsize == 2 else colour.astype(np.uint8)
    if photometric == "RGB":
        return _to_8_bits(frame, ds)
    if photometric == "YBR_FULL":
        return convert_color_space(_to_8_bits(frame, ds), "YBR_FULL", "RGB")
    raise CannotTranscode(f"there is no image for the photometric interpretation {photometric}")


def _windowed(frame: Frame, ds: Dataset) -> NDArray[np.uint8]:
    values = apply_modality_lut(frame, ds) if _has_modality_lut(ds) else frame
    if ds.get("VOILUTSequence"):
        # The entries of the table may have fewer bits than their cells.
        top = (1 << int(ds.VOILUTSequence[0].LUTDescriptor[2])) - 1
        return _scaled(apply_voi(values, ds), 0, top)
    if _has_window(ds):
        # The window maps values far below and far above it to black and to white.
        low, high = apply_windowing(np.array([-1e12, 1e12]), ds)
        return _scaled(apply_windowing(values, ds), low, high)
    return _scaled(values, values.min(), values.max())


def _has_modality_lut(ds: Dataset) -> bool:
    """Tell whether stored values have another meaning; attributes that are present may be empty."""
    rescale = (ds.get("RescaleSlope"), ds.get("RescaleIntercept"))
    return bool(ds.get("ModalityLUTSequence")) or None not in rescale


def _has_window(ds: Dataset) -> bool:
    """Tell whether there is a window, and one that is wide enough (PS3.3, C.11.2.1.2)."""
    center, width = (_first(ds.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if not ds.get("VOILUTFunction", "LINEAR"):
        del ds.VOILUTFunction
    is_linear = str(ds.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR"
    return center is not None and width is not None and (width >= 1 if is_linear else width > 0)


def _first(value: Any) -> Any:
    """Return the first value of an element; None if it has none."""
    return next(iter(value), None) if isinstance(value, MultiValue) else value


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    spread = float(high) - float(low)
    if spread <= 0:
        return np.zeros(values.shape, np.uint8)
    return np.clip(np.rint((values.astype(np.float64) - float(low)) / spread * 255), 0, 255).astype(np.uint8)


def _to_8_bits(frame: Frame, ds: Dataset) -> NDArray[np.uint8]:
    bits = int(ds.BitsStored)
    return frame.astype(np.uint8) if bits <= 8 else (frame >> (bits - 8)).astype(np.uint8)


def _display_attributes(ds: Dataset, index: int) -> Dataset:
    """Return the attributes that affect the display of a frame: of its functional groups or the instance."""
    groups = [*ds.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += ds.get("PerFrameFunctionalGroupsSequence", [])[index : index + 1]
    displays = [item for group in groups for name in _DISPLAY_SEQUENCES for item in group.get(name, [])[:1]]
    if not displays:
        return ds
    display = Dataset()
    for keyword in ("BitsStored", "PixelRepresentation", "PhotometricInterpretation"):
        display[keyword] = ds[keyword]
    for item in displays:
        display.update(item)
    return display
