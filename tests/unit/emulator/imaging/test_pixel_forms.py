"""Pixel data without DICOM around it: raw values, PNG and JPEG, over the files that pydicom ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from airflow_provider_dicom.emulator.imaging.transcode import (
    CannotTranscode,
    Rendition,
    render,
)

if TYPE_CHECKING:
    from pathlib import Path


from tests.support.pixel_data import (
    BASELINE,
    DEFLATED_FRAMES,
    EXPLICIT,
    FILES,
    OTHERS,
    RLE,
    altered,
    dicom,
    pictures,
    rendered,
    stored_values,
)

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


# ---- raw pixel data


def test_octet_stream_of_one_frame_has_no_padding() -> None:
    path = FILES / "test_files/SC_rgb_small_odd.dcm"
    [rendition] = render(path, "application/octet-stream")
    # 3 x 3 x 3 bytes: what pads the element to an even length is no pixel.
    assert rendition == Rendition(None, dcmread(path).PixelData[:27])


def test_octet_stream_is_one_file_per_frame() -> None:
    path = FILES / "test_files/rtdose.dcm"
    frames = list(render(path, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"))
    assert [frame.frame for frame in frames] == list(range(1, 16))
    assert b"".join(frame.content for frame in frames) == dcmread(path).PixelData


@pytest.mark.parametrize("name", ["rtdose_expb.dcm", "rtdose_rle.dcm"])
def test_octet_stream_is_little_endian(name: str) -> None:
    frames = render(FILES / "test_files" / name, "application/octet-stream")
    expected = dcmread(FILES / "test_files/rtdose.dcm").PixelData
    assert b"".join(frame.content for frame in frames) == expected


def test_octet_stream_of_stored_syntax_keeps_the_codestreams() -> None:
    path = FILES / "test_files/examples_ybr_color.dcm"
    frames = list(render(path, "application/octet-stream; transfer-syntax=*"))
    assert [frame.frame for frame in frames] == list(range(1, 31))
    assert all(frame.content.startswith(b"\xff\xd8") for frame in frames)
    assert [frame.content for frame in frames] == list(
        generate_frames(dcmread(path).PixelData, number_of_frames=30)
    )


def test_truncated_pixel_data_cannot_be_converted() -> None:
    path = FILES / "test_files/MR_truncated.dcm"
    for form in ("application/octet-stream", "application/octet-stream; transfer-syntax=*"):
        with pytest.raises(CannotTranscode, match="shorter than declared"):
            list(render(path, form))
    with pytest.raises(CannotTranscode, match="less than expected"):
        list(render(path, dicom(RLE)))


def test_one_bit_frames_are_split_inside_bytes(tmp_path: Path) -> None:
    flags = np.random.default_rng(0).integers(0, 2, (3, 5, 5), dtype="u1")

    def to_bits(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 5
        ds.NumberOfFrames = 3
        ds.PixelData = np.packbits(flags.ravel(), bitorder="little").tobytes()

    path = altered("test_files/liver_1frame.dcm", tmp_path / "bits.dcm", to_bits)
    for form in ("application/octet-stream", "application/octet-stream; transfer-syntax=*"):
        for index, rendition in enumerate(render(path, form)):
            bits = np.unpackbits(np.frombuffer(rendition.content, "u1"), bitorder="little")[:25]
            np.testing.assert_array_equal(bits.reshape(5, 5), flags[index])
    exported = rendered(path, dicom(DEFLATED_FRAMES))
    np.testing.assert_array_equal(np.stack(stored_values(exported)), flags)
    path.write_bytes(next(render(path, dicom(DEFLATED_FRAMES))).content)
    native = rendered(path, dicom(EXPLICIT))
    np.testing.assert_array_equal(np.stack(stored_values(native)), flags)


@pytest.mark.parametrize("form", ["application/octet-stream", "image/png", "image/jpeg"])
@pytest.mark.parametrize("name", OTHERS)
def test_instance_without_pixels_has_no_image(name: str, form: str) -> None:
    with pytest.raises(CannotTranscode, match="no pixel data"):
        list(render(FILES / name, form))


# ---- PNG and JPEG


def test_image_of_monochrome1_is_inverted(tmp_path: Path) -> None:
    name = "test_files/dicomdirtests/77654033/CR1/6154"

    def invert(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME2"

    [inverted] = pictures(FILES / name)
    [plain] = pictures(altered(name, tmp_path / "plain.dcm", invert))
    assert plain.min() < plain.max()
    np.testing.assert_array_equal(inverted, 255 - plain)


def test_image_window_applies_to_rescaled_values(tmp_path: Path) -> None:
    def window(ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = 2, -1000
        ds.WindowCenter, ds.WindowWidth = [40.5, 0], [401, 1]

    path = altered("test_files/CT_small.dcm", tmp_path / "window.dcm", window)
    [picture] = pictures(path)
    hounsfield = dcmread(path).pixel_array.astype(float) * 2 - 1000
    # PS3.3, C.11.2.1.2.1, the first of two windows: from -160 to 240.
    expected = np.clip((hounsfield + 160) / 400, 0, 1) * 255
    assert np.abs(picture - expected).max() <= 0.5
    assert {0, 255} < set(picture.ravel())


def test_image_ignores_empty_attributes_and_windows_without_width(tmp_path: Path) -> None:
    def plain(ds: Dataset) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept

    def empty(ds: Dataset) -> None:
        ds.RescaleSlope = ds.RescaleIntercept = ds.WindowCenter = ds.WindowWidth = None
        ds.VOILUTFunction = ""

    def half_empty(ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 2, None, [40, 50], [0, 0]

    def without_function(ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 40, 0.5, ""

    [expected] = pictures(altered("test_files/CT_small.dcm", tmp_path / "plain.dcm", plain))
    for change in (empty, half_empty, without_function):
        path = altered("test_files/CT_small.dcm", tmp_path / f"{change.__name__}.dcm", change)
        np.testing.assert_array_equal(pictures(path)[0], expected)


def test_image_without_window_shows_the_whole_range(tmp_path: Path) -> None:
    def brick_up(ds: Dataset) -> None:
        del ds.WindowCenter, ds.WindowWidth

    [picture] = pictures(altered("test_files/MR_small.dcm", tmp_path / "wall.dcm", brick_up))
    assert (picture.min(), picture.max()) == (0, 255)


def test_image_of_one_grey_level_is_black(tmp_path: Path) -> None:
    def flat(ds: Dataset) -> None:
        ds.PixelData = bytes([7]) * len(ds.PixelData)

    [picture] = pictures(altered("test_files/CT_small.dcm", tmp_path / "flat.dcm", flat))
    assert set(picture.ravel()) == {0}


def test_image_uses_the_voi_lookup_table(tmp_path: Path) -> None:
    def table(ds: Dataset) -> None:
        lut = Dataset()
        lut.LUTDescriptor = [256, 0, 12]
        lut.LUTData = [4095 - 16 * entry for entry in range(256)]
        lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
        ds.VOILUTSequence = [lut]

    path = altered("charset_files/chrGerm.dcm", tmp_path / "table.dcm", table)
    [picture] = pictures(path)
    values = dcmread(path).pixel_array.astype(float)
    np.testing.assert_allclose(picture, (4095 - 16 * values) / 4095 * 255, atol=0.5)


def test_image_of_a_frame_uses_its_own_window(tmp_path: Path) -> None:
    def enhanced(ds: Dataset) -> None:
        shared, groups = Dataset(), []
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, 0
        transformation.RescaleType = "US"
        shared.PixelValueTransformationSequence = [transformation]
        for center in (500, 1500):
            group, look = Dataset(), Dataset()
            look.WindowCenter, look.WindowWidth = center, 400
            group.FrameVOILUTSequence = [look]
            groups.append(group)
        ds.NumberOfFrames = 2
        ds.PixelData += ds.PixelData
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = groups

    first, second = pictures(altered("test_files/CT_small.dcm", tmp_path / "enhanced.dcm", enhanced))
    assert first.mean() > second.mean() + 20


def test_image_of_palette_color_is_in_rgb() -> None:
    path = FILES / "test_files/examples_palette.dcm"
    ds = dcmread(path)
    [picture] = pictures(path)
    np.testing.assert_array_equal(picture, apply_color_lut(ds.pixel_array, ds) >> 8)


def test_multiframe_ybr_becomes_one_rgb_image_per_frame() -> None:
    path = FILES / "test_files/examples_ybr_color.dcm"
    assert [rendition.frame for rendition in render(path, "image/png")] == list(range(1, 31))
    expected = get_decoder(BASELINE).iter_array(dcmread(path), raw=True)
    for picture, (frame, _) in zip(pictures(path), expected, strict=True):
        np.testing.assert_array_equal(picture, convert_color_space(frame, "YBR_FULL", "RGB"))


def test_image_of_16_bit_colours_has_8_bits() -> None:
    [picture] = pictures(FILES / "test_files/SC_rgb_rle_16bit.dcm")
    [frame] = stored_values(dcmread(FILES / "test_files/SC_rgb_rle_16bit.dcm"))
    np.testing.assert_array_equal(picture, frame >> 8)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "examples_palette.dcm", "examples_rgb_color.dcm", "liver_1frame.dcm"]
)
def test_jpeg_is_baseline_and_resembles_the_png(name: str) -> None:
    path = FILES / "test_files" / name
    [rendition] = render(path, "image/jpeg")
    assert b"\xff\xc0" in rendition.content, "the marker of baseline"
    for jpeg, png in zip(pictures(path, "image/jpeg"), pictures(path), strict=True):
        assert np.abs(jpeg - png).mean() < 4


def test_image_of_unknown_photometric_interpretation_is_refused(tmp_path: Path) -> None:
    def paint(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "CMYK"

    path = altered("test_files/examples_rgb_color.dcm", tmp_path / "cmyk.dcm", paint)
    with pytest.raises(CannotTranscode, match="CMYK"):
        list(render(path, "image/png"))
