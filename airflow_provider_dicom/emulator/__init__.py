"""The local Healthcare API: a server of the DICOM part of the Cloud Healthcare API, for tests and demos.

``python -m airflow_provider_dicom.emulator [--host 127.0.0.1] [--port 8085] [--data DIR]``; the first line
on stdout says where it listens. Point clients at it with ``HEALTHCARE_EMULATOR_HOST``. There is no
authentication, so it listens on loopback unless told otherwise.

It does the work: DICOM stores, uploads (STOW-RS), searches (QIDO-RS), retrieval (WADO-RS), and exports that
are long-running operations and really write, to the Cloud Storage emulator at ``STORAGE_EMULATOR_HOST`` and
the BigQuery emulator at ``BIGQUERY_EMULATOR_HOST``. Requests are checked against Google's discovery document;
methods that this server does not have answer 501. With ``--data`` everything survives a crash, and
interrupted exports go on.

Where it is simpler than the real API:

- Creating a DICOM store creates its dataset, too.
- Answers are not pretty-printed.
- Lists of operations can be filtered by ``done=true`` or ``done=false``, lists of stores by
  ``labels.key=value``; any other filter is refused.
- Searches match exactly, with wildcards, ranges and lists of UIDs, but not fuzzily, and attributes of a study
  or a series are those of the first instance that was stored.
- Errors in DICOMweb have the same JSON envelope as everywhere else.
- A filter file's path that leads to nothing counts as a failure of the export.

What tests steer is below ``/_emulator``, in JSON; unknown fields are refused with a 400:

``GET /healthz``
    Answers ``{"status": "ok"}``.
``GET, PATCH /_emulator/settings``
    How exports advance (``advance``: ``time``, ``manual`` or ``immediate``; ``seconds_per_instance``,
    ``start_delay_seconds``, ``max_running_exports``, ``export_quota``) and what stands in their way
    (``failing_instances``, ``operation_error``, ``denied_permissions``); see :mod:`.settings`.
``POST /_emulator/step``
    ``{"operation": name or null for all, "instances": n or null for the rest}``: lets held exports go on, and
    answers ``{"operations": [...]}`` when they have.
``GET, DELETE /_emulator/exports``
    ``{"accepted", "highest_running", "highest_unfinished", "operations": [{"name", "dicomStore", "request",
    "state", "log"}]}``; ``DELETE`` only begins to look for the highest numbers anew.
``POST, GET, DELETE /_emulator/faults``
    Sets what is to go wrong (:class:`.server.faults.Fault`), tells how often each fault fired, removes all.
``DELETE /_emulator/faults/{id}``
    Removes one.
``GET, DELETE /_emulator/requests``
    What was asked of the API: ``{"counts", "connections", "recent"}``; ``DELETE`` counts from zero again.
``POST /_emulator/tokens``
    ``{"valid": [...] or null}``: the access tokens that are accepted; null, the default, accepts all.
"""
