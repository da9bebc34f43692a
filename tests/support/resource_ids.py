"""Strategies for ids that Google accepts."""

from __future__ import annotations

from hypothesis import strategies as st

PROJECTS = st.from_regex(
    r"([a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,2}:)?[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True
)
LOCATIONS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
#: The API's own pattern of dataset and DICOM store ids: [\p{L}\p{N}_\-\.]{1,256}.
RESOURCE_IDS = st.text(
    st.characters(categories=["L", "N"], include_characters="_-."), min_size=1, max_size=256
).filter(lambda text: ".." not in text and text != ".")
