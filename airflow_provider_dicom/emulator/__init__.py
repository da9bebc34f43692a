"""The local Healthcare API: a server of the DICOM part of the Cloud Healthcare API, for tests and demos.

``python -m airflow_provider_dicom.emulator [--host 127.0.0.1] [--port 8085] [--data DIR]``; the first line
on stdout is its address. Point clients at it with ``HEALTHCARE_EMULATOR_HOST``. It has no authentication, so
that it listens on loopback by default. With ``--storage-port PORT`` it also starts a Cloud Storage emulator,
whose address is the second line; ``--bucket``, ``--store`` and ``--load FOLDER`` fill both.

It implements DICOM stores, uploads (STOW-RS), searches (QIDO-RS), retrieval (WADO-RS), and exports and
imports that are long-running operations and really write and read, through the Cloud Storage emulator at
``STORAGE_EMULATOR_HOST`` and the BigQuery emulator at ``BIGQUERY_EMULATOR_HOST``. Changes are streamed to
BigQuery (``streamConfigs``) and published to the Pub/Sub emulator at ``PUBSUB_EMULATOR_HOST``
(``notificationConfigs``). At the same address it has ``entries.list`` of Cloud Logging, with an entry for
each instance that an export could not write. Requests are validated against Google's discovery documents. The
server is as strict as Google's API, where that is known; ``--lenient`` makes it less strict. ``v1beta1`` and
``v1alpha2`` are other names of what they share with ``v1``. With ``--data`` everything survives a crash, and
interrupted exports and imports continue; only deliveries to BigQuery and Pub/Sub are lost.

These methods respond with HTTP 501, because viewers need them and exports do not: frames, rendered instances,
bulk data, de-identification, storage settings, locations, and all that is not about DICOM.

While it listens on loopback, it refuses requests whose header ``Host`` or ``Origin`` names another machine: a
web page that somebody has open on this one sends those.

Where it is simpler than the real API:

- Responses are not pretty-printed.
- Lists of operations can be filtered by ``done=true`` or ``done=false``, lists of stores by
  ``labels.key=value``; other filters are refused.
- The attributes of a study or a series, for searches, are those of its first stored instance.
- IAM policies are kept, but grant and deny nothing; the setting ``denied_permissions`` does.
- All data has the storage class STANDARD.
- DICOMweb errors have the same JSON envelope as all other errors.
- Filters of log entries are comparisons with ``=``, ``:``, ``>=``, ``<=``, joined by ``AND`` or line breaks.
- A path in a filter file that matches no instance counts as a failure of the export.

Tests steer and observe the server below ``/_emulator``, with JSON bodies (``Content-Type:
application/json``); unknown fields are refused with HTTP 400:

``GET /healthz``
    Returns ``{"status": "ok"}``.
``GET, PATCH /_emulator/settings``
    How fast exports advance (``advance``: ``time``, ``manual`` or ``immediate``; ``seconds_per_instance``,
    ``start_delay_seconds``, ``max_running_exports``, ``export_quota``), how they fail
    (``failing_instances``, ``partial_failure``, ``operation_error``, ``denied_permissions``), what Cloud
    Logging lists of their errors (``log_lag_seconds``, ``max_log_entries``), and where the server is less
    strict than Google's API (``missing_dataset_status``, ``create_missing_datasets``, ``any_search``); see
    :class:`airflow_provider_dicom.emulator.settings.Settings`.
    Example: ``{"advance": "manual", "failing_instances": ["1.2.3"]}``.
``POST /_emulator/step``
    ``{"operation": name or null for all, "instances": n or null for all that are left}``: with ``"advance":
    "manual"``, lets exports write some more instances, and then returns ``{"operations": [...]}``.
``GET, DELETE /_emulator/exports``
    ``{"accepted", "highest_running", "highest_unfinished", "operations": [{"name", "dicomStore", "request",
    "state", "log"}]}``; ``DELETE`` only resets the two maxima.
``GET /_emulator/imports``
    ``{"operations": [...]}``, as above.
``GET /_emulator/deliveries``
    What was streamed and published: ``{"pending", "delivered", "failed": [{"destination", "instance",
    "message"}]}``.
``POST, GET, DELETE /_emulator/faults``
    Adds a fault (:class:`airflow_provider_dicom.emulator.server.faults.Fault`), returns all faults with the
    numbers of requests that they affected, removes all.
    Example: ``{"route": "operations.get", "status": 503, "retry_after": 2, "count": 3}``.
``DELETE /_emulator/faults/{id}``
    Removes one fault, which ends its delays.
``GET, DELETE /_emulator/requests``
    The log of requests to the API: ``{"counts", "connections", "recent"}``; ``DELETE`` starts counting from
    zero.
``POST /_emulator/tokens``
    ``{"valid": [...] or null}``: the access tokens that are accepted; null, the default: requests need no
    token.

For developers: the layers. A module imports only from its own layer and from layers that are listed before
it, and nothing else of ``airflow_provider_dicom``:

1. ``errors``, ``messages``, ``names``, ``settings``: the modules beside this one.
2. ``models/``: what is stored, in SQLite and files: datasets, DICOM stores, instances, operations.
3. ``imaging/``: conversion of instances to other transfer syntaxes and to images.
4. ``exports/``: runs exports and imports, reads and writes Cloud Storage, BigQuery and Pub/Sub.
5. ``handlers/``: one module per area of the API, with a function per method.
6. ``server/``: the ASGI application: faults at the front, routing, validation, the control endpoint.
7. ``__main__``: the command line. ``storage`` is a program of its own: the Cloud Storage emulator.
"""
