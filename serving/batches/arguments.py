"""The settings of batches."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator


class BatchArguments(BaseModel):
    """Where the files of /v1/files and /v1/batches lie, and how much a batch may be and take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = Field(min_length=1, description="Directory, or URI of an object store, that every node sees.")
    max_file_bytes: PositiveInt = Field(default=2 * 2**30, description="Of one file that a client sends.")
    max_requests: PositiveInt = Field(default=1_000_000, description="Of one batch.")
    max_jobs: PositiveInt = Field(default=1, description="Batches in progress at the same time; others wait.")
    max_actors: PositiveInt = Field(
        default=4, description="Of one batch, as far as the cluster has room; each reserves what a replica does."
    )

    @field_validator("storage")
    @classmethod
    def _make_absolute(cls, storage: str) -> str:
        return storage if "://" in storage else os.path.abspath(storage)  # gateways and jobs run in other directories
