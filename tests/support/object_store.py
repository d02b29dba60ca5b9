"""A bucket on a real S3 server on loopback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest

from pipelines.scoring.storage import locate


@contextmanager
def s3_bucket() -> Iterator[Callable[[str], str]]:
    """Gives the URI of a key in an empty bucket; credentials are in the environment while it runs."""
    server = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        # All servers of a process have the same buckets: those of the module before go.
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"), timeout=60).close()
        query = f"endpoint_override=http%3A%2F%2F{host}%3A{port}&region=us-east-1&allow_bucket_creation=true"
        locate(f"s3://bucket?{query}").filesystem.create_dir("bucket")
        yield lambda key: f"s3://bucket/{key}?{query}"
        running.stop()
