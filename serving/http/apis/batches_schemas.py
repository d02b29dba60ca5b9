"""Wire types of /v1/batches: OpenAI's shapes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from serving.http.apis.wire import Text, Wire, only

_WINDOW = re.compile(r"([1-9]\d{0,2})([hd])")
_SECONDS = {"h": 3600, "d": 86400}
_MAX_METADATA = 16


class BatchRequest(Wire):
    input_file_id: Text = Field(examples=["file-0193a1b2c3d4e5f60718293a"])
    endpoint: Text = Field(description="The path of every request in the file.", examples=["/v1/embeddings"])
    completion_window: Text = Field(
        description="Hours or days, such as 24h or 7d: what is not answered by then is given up.", examples=["24h"]
    )
    metadata: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]] | None = None
    output_expires_after: Annotated[Any, only(instead="files stay until they are deleted")] = None

    @field_validator("completion_window")
    @classmethod
    def _check_window(cls, window: str) -> str:
        if not _WINDOW.fullmatch(window):
            raise ValueError("should be hours or days, such as 24h or 7d")
        return window

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        if metadata and len(metadata) > _MAX_METADATA:
            raise ValueError(f"has {len(metadata)} pairs, the limit is {_MAX_METADATA}")
        return metadata

    @property
    def window_s(self) -> int:
        """Seconds."""
        number, unit = _WINDOW.fullmatch(self.completion_window).groups()  # type: ignore[union-attr]
        return int(number) * _SECONDS[unit]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None = Field(description="Of the input file, the first is 1.")


class BatchErrors(BaseModel):
    object: Literal["list"]
    data: list[BatchError]


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
