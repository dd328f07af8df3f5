"""A Google Cloud Storage on loopback, for the tests of `gs://` paths; nothing leaves the machine."""

import contextlib
from collections import Counter
from functools import partial
from http import server
from threading import Lock, Thread

import pytest

BUCKET = "wsss-test"
requests: Counter[str] = Counter()
"""Requests to the emulator since the bucket was made, by method and path."""


@contextlib.contextmanager
def emulated_bucket(monkeypatch):
    """While the block runs, `gs://wsss-test` exists, empty at first; gives that path.

    Beam's client gets the emulator's address, and is set not to look for credentials, which would ask the
    metadata server of a Google machine for them.
    """
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="the test extra is not installed")
    from apache_beam.internal.gcp.auth import _Credentials
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    lock = Lock()  # its storage is not made for several threads

    class CountingHandler(emulator.RequestHandler):
        def parse_request(self):
            is_valid = super().parse_request()
            requests[f"{self.command} {self.path.split('?')[0]}"] += 1
            return is_valid

    def one_at_a_time(method):
        def handle(handler):
            with lock:
                getattr(emulator.RequestHandler, method)(handler)

        return handle

    for method in ("do_GET", "do_POST", "do_DELETE", "do_PUT", "do_PATCH"):
        setattr(CountingHandler, method, one_at_a_time(method))
    requests.clear()
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    # The emulator's own server answers one request at a time; a pipeline asks several at once.
    handler = partial(CountingHandler, storage)
    with server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setattr(_Credentials, "_credentials", None)
        monkeypatch.setattr(_Credentials, "_credentials_init", True)
        try:
            yield f"gs://{BUCKET}"
        finally:
            http.shutdown()
            thread.join()
