"""Sphinx's settings."""

from __future__ import annotations

from airflow_provider_dicom import __version__

project = "airflow-provider-dicom"
copyright = "the airflow-provider-dicom developers, Apache-2.0"  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# The sources are not part of the pages.
html_copy_source = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Messages and names of tests are quoted as they are.
smartquotes = False

autodoc_member_order = "bysource"
# One argument a line.
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
