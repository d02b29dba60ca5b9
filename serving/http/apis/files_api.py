"""/v1/files: OpenAI's endpoints over the storage of batches. Contents are streamed, never whole in memory."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile
from starlette.types import Message

from serving.batches.arguments import BatchArguments
from serving.batches.batches import Batches
from serving.batches.files import Files
from serving.errors import ServingError
from serving.http.apis.files_schemas import DeletedFile, File, FileList
from serving.http.error_handlers import responses

PURPOSE = "batch"

# Uploads of a gateway at the same time: each lies on its disk until it is whole.
_MAX_UPLOADS = 4
_MAX_FIELDS = 16
_FORM_BYTES = 64 * 1024
_CHUNK_BYTES = 2**20

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


def add_routes(
    router: APIRouter,
    files_of: Callable[[Request], Files],
    batches_of: Callable[[Request], Batches],
    arguments: BatchArguments,
) -> None:
    """Adds the endpoints. files_of, batches_of: those that a request may see."""
    errors = responses("invalid_api_key", "unknown_object", path="/v1/files/ID")
    uploads = asyncio.Semaphore(_MAX_UPLOADS)

    @router.post("/files", tags=["openai"], summary="Send a file of requests.", openapi_extra=_FORM,
                 responses=responses("invalid_api_key", "invalid_input", "payload_too_large", "unsupported_media_type",
                                     "overloaded", path="/v1/files"))  # fmt: skip
    async def upload(request: Request) -> File:
        if uploads.locked():
            raise ServingError("overloaded", f"{_MAX_UPLOADS} files are being sent, the limit", retry_after_s=5)
        async with uploads:
            body = _bounded(request, arguments.max_file_bytes + _FORM_BYTES)
            try:
                async with body.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_FORM_BYTES) as form:
                    sent = _checked(dict(form), arguments.max_file_bytes)
                    name = (sent.filename or "file")[:255]
                    record = await asyncio.to_thread(files_of(request).add, sent.file, name, PURPOSE)
            except HTTPException as error:  # Starlette's, of a body that is no form
                raise ServingError("invalid_input", f"the form cannot be read: {error.detail}") from None
        return File(**record)

    @router.get("/files", tags=["openai"], summary="The files of this API key.", responses=errors)
    def listed(
        purpose: Literal["batch", "batch_output"] | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        *,
        request: Request,
    ) -> FileList:
        found = files_of(request).list(after, newest_first=order == "desc")
        data = list(islice((one for one in found if purpose in (None, one["purpose"])), limit + 1))
        return FileList(**as_page(data, limit))

    @router.get("/files/{file_id}", tags=["openai"], summary="One file.", responses=errors)
    def retrieve(file_id: str, request: Request) -> File:
        return File(**files_of(request).get(file_id))

    @router.get("/files/{file_id}/content", tags=["openai"], summary="What is in it.", response_model=None,
                responses={200: {"content": {"application/octet-stream": {}}}, **errors})  # fmt: skip
    def content(file_id: str, request: Request) -> StreamingResponse:
        files = files_of(request)
        headers = {"Content-Length": str(files.get(file_id)["bytes"])}
        return StreamingResponse(_chunks(files.open(file_id)), media_type="application/octet-stream", headers=headers)

    @router.delete("/files/{file_id}", tags=["openai"], summary="Delete a file that no batch reads.",
                   responses={**errors, **responses("invalid_input", path="/v1/files/ID")})  # fmt: skip
    def delete(file_id: str, request: Request) -> DeletedFile:
        batches_of(request).check_unused(file_id)
        files_of(request).delete(file_id)
        return DeletedFile(id=file_id)


def as_page(data: list[Any], limit: int) -> dict[str, Any]:
    """The first `limit` of the objects, as OpenAI's pages have them."""
    shown = data[:limit]
    ids = [one["id"] for one in shown] or [None]
    return {"data": shown, "has_more": len(data) > limit, "first_id": ids[0], "last_id": ids[-1]}


def _bounded(request: Request, limit: int) -> Request:
    """The request, whose body ends with a ServingError where it is too large or no form."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise ServingError("unsupported_media_type", "send Content-Type: multipart/form-data with file and purpose")
    too_large = ServingError("payload_too_large", f"the file has more than {limit - _FORM_BYTES} bytes, the limit")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    num_bytes = 0

    async def receive() -> Message:
        nonlocal num_bytes
        message = await request.receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


def _checked(form: dict[str, Any], limit: int) -> UploadFile:
    sent, purpose = form.pop("file", None), form.pop("purpose", None)
    if not isinstance(sent, UploadFile):
        raise ServingError("invalid_input", "file: a file is missing", param="file")
    if purpose != PURPOSE:
        said = "missing" if purpose is None else f"{str(purpose)[:100]!r} is not served"
        raise ServingError("invalid_input", f"purpose: {said}; the one here is {PURPOSE!r}", param="purpose")
    if form:
        name = next(iter(form))[:100]
        raise ServingError("invalid_input", f"{name}: not served; leave it out", param=name)
    if (sent.size or 0) > limit:
        raise ServingError("payload_too_large", f"the file has {sent.size} bytes, the limit is {limit}")
    return sent


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
