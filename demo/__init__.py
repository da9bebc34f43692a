"""``make demo``: a real Airflow exports from a Healthcare API to a Cloud Storage, all on this machine."""
