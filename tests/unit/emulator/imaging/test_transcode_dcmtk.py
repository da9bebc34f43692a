"""Exported files as DCMTK, which had no part in making them, reads them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder

from airflow_provider_dicom.emulator.imaging.transcode import FORMS, CannotTranscode, render

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

if shutil.which("dcmftest") is None and not os.environ.get("CI"):
    pytest.skip("DCMTK is not installed", allow_module_level=True)

# pydicom's files are there to exercise a parser: many of their values draw a warning.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FILES = Path(pydicom.data.__file__).parent / "test_files"
EXPLICIT = "1.2.840.10008.1.2.1"
# Program that decodes a syntax, and the options that keep colours as they were coded.
DECODERS: dict[str, list[str]] = {
    "1.2.840.10008.1.2": ["dcmconv", "+te"],
    EXPLICIT: ["dcmconv", "+ti"],
    "1.2.840.10008.1.2.1.99": ["dcmconv", "+te"],
    "1.2.840.10008.1.2.4.57": ["dcmdjpeg", "+cn", "+px"],
    "1.2.840.10008.1.2.4.70": ["dcmdjpeg", "+cn", "+px"],
    "1.2.840.10008.1.2.4.80": ["dcmdjpls", "+px"],
    "1.2.840.10008.1.2.5": ["dcmdrle"],
}
PICTURES = [
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_jp2klossless.dcm",
    "693_J2KI.dcm",
    "examples_overlay.dcm",
    "dicomdirtests/77654033/CR1/6154",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
    "ExplVR_BigEnd.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_16bit.dcm",
]
# The only decoder of these in the project is the one that exports use; DCMTK's is the other one.
JPEGS = ["SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm"]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def frames(ds: Dataset) -> np.ndarray:
    return np.stack(
        [frame for frame, _ in get_decoder(ds.file_meta.TransferSyntaxUID).iter_array(ds, raw=True)]
    )


def export(name: str, syntax: str, path: Path) -> None:
    [rendition] = render(FILES / name, f"application/dicom; transfer-syntax={syntax}")
    path.write_bytes(rendition.content)


@pytest.mark.parametrize("name", [*PICTURES, *JPEGS, "rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm"])
def test_dcmftest_accepts_every_syntax(name: str, tmp_path: Path) -> None:
    exported = []
    for syntax in FORMS["application/dicom"][1:]:
        # Which syntaxes hold which pixels is another test's matter.
        with contextlib.suppress(CannotTranscode):
            export(name, syntax, tmp_path / f"{syntax}.dcm")
            exported.append(tmp_path / f"{syntax}.dcm")
    assert len(exported) >= 11
    answers = run("dcmftest", *exported).splitlines()
    assert answers == [f"yes: {path}" for path in exported]


@pytest.mark.parametrize("syntax", DECODERS)
@pytest.mark.parametrize("name", PICTURES)
def test_dcmtk_decodes_the_same_pixels(name: str, syntax: str, tmp_path: Path) -> None:
    export(name, syntax, tmp_path / "exported.dcm")
    run(*DECODERS[syntax], tmp_path / "exported.dcm", tmp_path / "decoded.dcm")
    decoded, source = dcmread(tmp_path / "decoded.dcm"), dcmread(FILES / name)
    assert not decoded.file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_array_equal(frames(decoded), frames(source))


@pytest.mark.parametrize("name", JPEGS)
def test_stored_jpeg_is_decoded_to_the_pixels_of_dcmtk(name: str, tmp_path: Path) -> None:
    export(name, EXPLICIT, tmp_path / "exported.dcm")
    run("dcmdjpeg", "+cn", "+px", FILES / name, tmp_path / "decoded.dcm")
    ours, theirs = frames(dcmread(tmp_path / "exported.dcm")), frames(dcmread(tmp_path / "decoded.dcm"))
    # Decoders of lossy JPEG may round differently.
    tolerance = 1 if name == "JPGExtended.dcm" else 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("examples_rgb_color.dcm", "1.2.840.10008.1.2.4.50"),
        ("examples_overlay.dcm", "1.2.840.10008.1.2.4.51"),
        ("examples_rgb_color.dcm", "1.2.840.10008.1.2.4.81"),
        ("examples_overlay.dcm", "1.2.840.10008.1.2.4.81"),
    ],
)
def test_dcmtk_decodes_lossy_syntaxes_to_similar_pixels(name: str, syntax: str, tmp_path: Path) -> None:
    export(name, syntax, tmp_path / "exported.dcm")
    program = "dcmdjpls" if syntax.endswith("81") else "dcmdjpeg"
    run(program, "+px", tmp_path / "exported.dcm", tmp_path / "decoded.dcm")
    decoded, source = dcmread(tmp_path / "decoded.dcm"), dcmread(FILES / name)
    assert decoded.PhotometricInterpretation == source.PhotometricInterpretation
    difference = frames(decoded).astype(int) - frames(source)
    assert np.abs(difference).mean() < 4
