"""Files on their way to /v1/files: through the proxy, and into the gateway; without Ray."""

import asyncio
import json

import httpx
import pytest
from error_bodies import error_in
from fastapi import APIRouter, FastAPI
from proxy_calls import ServesProxy, ask

from serving.batches.arguments import BatchArguments
from serving.batches.batches import Batches
from serving.batches.files import Files
from serving.batches.storage import Storage
from serving.http import error_handlers
from serving.http.apis import files_api
from serving.http.edge import transfers
from serving.http.edge.proxy import Proxy
from serving.http.routing.models import Models


def test_an_upload_is_passed_on_as_it_comes_and_sent_once_though_its_gateway_dies():
    proxy = ServesProxy([])
    status, _, body = ask(proxy, "/v1/files", chunks=(b"x" * 70_000, b"y"))
    assert (status, error_in(json.loads(body))["code"]) == (503, "service_unavailable")
    assert [headers["x-request-timeout-seconds"] for headers in proxy.headers] == ["-1"]
    assert proxy.bodies == [b"x" * 70_000 + b"y"]
    assert proxy.num_in_scope == 0


def test_an_upload_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(transfers, "BODY_S", 0.01)
    proxy, sent = ServesProxy([]), []
    chunks = [b"half"]

    async def receive():
        if not chunks:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunks.pop(), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/files", "headers": []}
    ours = Proxy(proxy, report=lambda *_: None)
    asyncio.run(asyncio.wait_for(ours(scope, receive, send), 20))
    assert sent[0]["status"] == 408
    assert proxy.bodies == [b"half"], "and Serve's proxy hears that the client is gone"


def put(storage, **request):
    """Sends a form to a gateway that takes files of 1000 bytes."""
    app, router = FastAPI(), APIRouter(prefix="/v1")
    error_handlers.install(app, Models({}))
    arguments = BatchArguments(storage="here", max_file_bytes=1000)
    files_api.add_routes(router, lambda _: Files(storage, "a"), lambda _: Batches(storage, "a"), arguments)
    app.include_router(router)

    async def main():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/files", **request)

    return asyncio.run(main())


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (200_000, 413)])
def test_a_file_larger_than_the_limit_is_refused_and_not_kept(tmp_path, size, status):
    storage = Storage(str(tmp_path))
    answer = put(storage, files={"file": b"x" * size}, data={"purpose": files_api.PURPOSE})
    assert answer.status_code == status
    assert len(list(Files(storage, "a").list(None, newest_first=True))) == (status == 200)


def test_of_a_file_that_does_not_say_how_large_it_is_no_more_is_read_than_the_limit(tmp_path):
    num_read = 0

    async def form():
        nonlocal num_read
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(100):
            num_read += 1
            yield b"x" * 2**16

    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert put(Storage(str(tmp_path)), content=form(), headers=headers).status_code == 413
    assert num_read <= 2
