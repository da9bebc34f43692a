"""Apache Airflow provider that exports DICOM stores of the Google Cloud Healthcare API."""

__version__ = "0.2.0"
