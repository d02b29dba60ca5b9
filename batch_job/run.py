"""One batch from its file to its answers.

    validating    every line is read: requests become rows of groups
    in_progress   the groups are scored, one after another
    finalizing    every line is read again, and answered from its rows

The lines are read twice by the same code, so nothing need be remembered of them. What is scored stays scored; all else
is done again by a job that goes on.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from batch_job.endpoint import Endpoint, JobHead
from batch_job.groups import Group, Groups, Row
from batch_job.lines import Line, read_lines
from batch_job.watch import Watch
from serving.batches.batches import Batch
from serving.batches.files import Files

_MAX_ERRORS = 50
_UNANSWERED = {
    "cancelled": ("batch_cancelled", "not answered before the batch was cancelled"),
    "expired": ("batch_expired", "not answered before the batch's completion window was over"),
}


class _Taken(Exception):
    """The inputs of a request were taken; they are scored later."""


class _NotScored(Exception):
    """An input of a request was not scored."""


@dataclass
class _Found:
    """What the lines are."""

    num_lines: int = 0
    num_taken: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    num_errors: int = 0

    def counts(self, completed: int) -> dict[str, int]:
        """OpenAI's request_counts, of a batch that is not answered yet."""
        return {"total": self.num_lines, "completed": completed, "failed": self.num_lines - self.num_taken}


class BatchRun:
    """A job's work on one batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._request = batch, batch.request
        self._files = Files(batch.storage, batch.owner)
        self._work = f"{batch.folder}/work"
        self._line = 0

    def run(self) -> None:
        """Does what is left. Raises whatever stops it on the way."""
        if self._batch.ended:
            return
        with ExitStack() as stack:
            groups = Groups(self._batch.storage, self._work, lambda group: group.open(stack))
            found = asyncio.run(self._take(groups))
            for group in groups:
                group.flush()
        if refusal := self._refusal(found):
            self._batch.to_state("failed", errors={"object": "list", "data": refusal})
            self._batch.storage.delete_folder(self._work)
            return
        self._batch.to_state("in_progress", request_counts=found.counts(0))
        reason = self._score(list(groups), found)
        self._batch.to_state("finalizing")
        self._batch.to_state(reason or "completed", **asyncio.run(self._answer(groups, reason)))
        self._batch.storage.delete_folder(self._work)

    def _lines(self, stream: Any, endpoint: Endpoint) -> Iterator[Line]:
        for line in read_lines(stream, self._batch.id, self._request["endpoint"], endpoint.max_bytes):
            self._line = line.number
            yield line

    async def _take(self, groups: Groups) -> _Found:
        def take(head: JobHead, examples: list[Any], options: Any) -> list[dict[str, Any]]:
            chosen = [groups.of(head, example, options) for example in examples]
            for index, (group, example) in enumerate(zip(chosen, examples, strict=True)):
                group.add(self._line, index, example)
            raise _Taken

        found = _Found()
        endpoint = Endpoint(self._request["served"], self._request["endpoint"], take)
        with self._files.open(self._request["input_file_id"]) as stream:
            for line in self._lines(stream, endpoint):
                found.num_lines += 1
                if found.num_lines > self._request["max_requests"]:
                    break
                if line.error is not None:
                    found.num_errors += 1
                    if len(found.errors) < _MAX_ERRORS:
                        code, message = line.error
                        found.errors.append({"code": code, "message": message, "param": None, "line": line.number})
                    continue
                try:
                    await endpoint.answer(line.body, line.id)
                except _Taken:
                    found.num_taken += 1
        return found

    def _refusal(self, found: _Found) -> list[dict[str, Any]]:
        """Why the batch as a whole is not answered; empty where it is."""
        most = self._request["max_requests"]
        if found.num_lines > most:
            message = f"the file has more than {most} requests, the limit"
            return [{"code": "too_many_requests", "message": message, "param": None, "line": most + 1}]
        if not found.num_lines:
            return [{"code": "empty_file", "message": "the file has no requests", "param": None, "line": None}]
        return found.errors if found.num_errors == found.num_lines else []

    def _score(self, groups: list[Group], found: _Found) -> str | None:
        """Why it ended before everything was scored, None where it did not."""
        num_rows = sum(group.num_rows for group in groups)
        told = 0

        def tell() -> None:
            nonlocal told
            done = sum(group.count_scored() for group in groups)
            if done != told:
                told = done
                # Exact where every request has one input.
                counts = found.counts(found.num_taken * done // num_rows)
                self._batch.to_state("in_progress", request_counts=counts)

        with Watch(self._batch, tell) as watch:
            for group in groups:
                if (reason := watch.must_end()) is not None:
                    return reason
                group.score(self._request["max_actors"], sys.stdout)
        return watch.reason

    async def _answer(self, groups: Groups, reason: str | None) -> dict[str, Any]:
        """Writes the files of answers and of errors; what the batch's state says of them."""
        scored = _by_line(heapq.merge(*(group.scored() for group in groups), key=lambda row: row[:2]))

        def take(head: JobHead, examples: list[Any], options: Any) -> list[dict[str, Any]]:
            for example in examples:
                groups.of(head, example, options)
            records = scored(self._line)
            if len(records) < len(examples):
                raise _NotScored
            return records

        endpoint = Endpoint(self._request["served"], self._request["endpoint"], take)
        counts = {"total": 0, "completed": 0, "failed": 0}
        with ExitStack() as stack:
            lines = self._lines(stack.enter_context(self._files.open(self._request["input_file_id"])), endpoint)
            writing = self._batch.storage.writing
            ids = {what: self._file_id(what) for what in ("output", "error")}
            output, errors = (
                stack.enter_context(writing(self._files.content_path(ids[what]))) for what in ("output", "error")
            )
            for line in lines:
                counts["total"] += 1
                error, status, body = line.error, 0, b""
                if error is None:
                    try:
                        status, body = await endpoint.answer(line.body, line.id)
                    except _NotScored:
                        assert reason is not None, f"line {line.number} was not scored"
                        error = _UNANSWERED[reason]
                good = status == 200
                counts["completed" if good else "failed"] += 1
                (output if good else errors).write(_answered(line, error, status, body))
        told = {"output": counts["completed"], "error": counts["failed"]}
        for what, number in told.items():
            if number:
                self._files.written(ids[what], f"{self._batch.id}_{what}.jsonl", "batch_output")
            else:
                self._batch.storage.delete(self._files.content_path(ids[what]))
        ids_there = {f"{what}_file_id": ids[what] if number else None for what, number in told.items()}
        return {**ids_there, "request_counts": counts}

    def _file_id(self, what: str) -> str:
        """Always the same, so that a job that goes on writes the same file."""
        own = self._batch.id.removeprefix("batch_")
        return f"file-{own[:16]}{sha256(f'{own} {what}'.encode()).hexdigest()[:8]}"


def _answered(line: Line, error: tuple[str, str] | None, status: int, body: bytes) -> bytes:
    names = json.dumps({"id": line.id, "custom_id": line.custom_id})[:-1].encode()
    if error is not None:
        told = {"code": error[0], "message": error[1], "line": line.number}
        return names + b', "response": null, "error": ' + json.dumps(told).encode() + b"}\n"
    head = json.dumps({"status_code": status, "request_id": line.id})[:-1].encode()
    return names + b', "response": ' + head + b', "body": ' + body + b'}, "error": null}\n'


def _by_line(rows: Iterator[Row]) -> Callable[[int], list[dict[str, Any]]]:
    """Of rows in the order of lines: a function that gives those of a line, which is asked for lines in order."""
    ahead = next(rows, None)

    def of_line(number: int) -> list[dict[str, Any]]:
        nonlocal ahead
        found = []
        while ahead is not None and ahead[0] <= number:
            if ahead[0] == number:
                found.append(ahead[2])
            ahead = next(rows, None)
        return found

    return of_line
