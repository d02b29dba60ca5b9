"""Wire types of /v1/files: OpenAI's shapes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from serving.http.answers import example


class File(BaseModel):
    model_config = example(
        id="file-0193a1b2c3d4e5f60718293a",
        object="file",
        bytes=120_000,
        created_at=1767225600,
        filename="requests.jsonl",
        purpose="batch",
        status="processed",
    )

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[File]
    has_more: bool
    first_id: str | None
    last_id: str | None
