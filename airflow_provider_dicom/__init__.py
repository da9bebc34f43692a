"""Apache Airflow provider that exports DICOM stores of the Google Cloud Healthcare API."""

__version__ = "0.1.0"
