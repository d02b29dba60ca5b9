"""One batch from its input file to its output file and its error file.

    validating    every line of the input file is read, and the inputs of requests become rows of groups
    in_progress   the groups are scored, one after another
    finalizing    every line is read again by the same code, and answered with the records of its rows

A job that goes on after another one does not read the lines for validation again and keeps what is scored. It writes
both files from the beginning.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from batch_job.endpoint import BatchHead, Endpoint, heads_of
from batch_job.groups import Groups, Row
from batch_job.lines import Line, read_lines
from batch_job.watch import Watch
from serving.batches import batches
from serving.batches.batches import Batch
from serving.batches.files import Files

_MAX_ERRORS = 50


class _ToBeScored(BaseException):
    """Ends the answer to a valid request: its inputs are scored later.

    A BaseException: of an Exception, `Endpoint.answer` makes an error answer.
    """

    def __init__(self, head: BatchHead, examples: list[Any], options: Any) -> None:
        self.head, self.examples, self.options = head, examples, options


class _NotScored(BaseException):
    """Ends the answer to a request of which an input was not scored. A BaseException, as above."""


@dataclass(kw_only=True)
class _Lines:
    """What was found in the input file. errors: the first of the num_errors lines that are no valid requests."""

    num_lines: int = 0
    num_to_score: int = 0
    num_errors: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def counts(self, completed: int) -> dict[str, int]:
        """OpenAI's request_counts before the answers are written."""
        return {"total": self.num_lines, "completed": completed, "failed": self.num_lines - self.num_to_score}


class BatchRun:
    """Validates, scores and answers one batch, or goes on where an earlier job was."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._request = batch, batch.request
        self._files = Files(batch.storage, batch.owner)
        self._groups = Groups(batch.storage, batch.work, heads_of(self._request["served"]))

    def run(self) -> None:
        """Does what is left. Raises whatever stops it on the way."""
        if self._batch.ended:
            return
        with Watch(self._batch) as watch:
            lines = self._restored() or asyncio.run(self._read(watch))
            if lines is None:
                status = self._batch.must_end()
                assert status is not None
                self._batch.end_unread(status)
                return
            if refusal := self._refusal(lines):
                self._batch.end("failed", errors=batches.errors(*refusal))
                return
            self._score(watch, lines)
            self._batch.to_state("finalizing")
            written = asyncio.run(self._answer(watch))
        self._batch.end(watch.ending or "completed", **written)

    def _lines(self, stream: Any, endpoint: Endpoint) -> Iterator[Line]:
        return read_lines(stream, self._batch.id, self._request["endpoint"], endpoint.max_bytes)

    def _restored(self) -> _Lines | None:
        """What an earlier job found in the input file, None if none read it to its end."""
        record = self._batch.read("work/lines")
        if record is None:
            return None
        self._groups.restore(record["groups"])
        return _Lines(**record["lines"])

    async def _read(self, watch: Watch) -> _Lines | None:
        """Reads the input file and writes the rows of the groups. None if the batch has to end
        before that is done."""

        def collect(head: BatchHead, examples: list[Any], options: Any) -> list[dict[str, Any]]:
            for example in examples:
                self._groups.find(head, example, options)  # or raises: one group too many
            raise _ToBeScored(head, examples, options)

        found = _Lines()
        endpoint = Endpoint(self._request["served"], self._request["endpoint"], collect)
        with ExitStack() as stack, self._files.open(self._request["input_file_id"]) as stream:
            self._groups.open(stack)
            for line in self._lines(stream, endpoint):
                if watch.ending is not None:
                    return None
                found.num_lines += 1
                if found.num_lines > self._request["max_requests"]:
                    return found
                if line.error is not None:
                    found.num_errors += 1
                    if len(found.errors) < _MAX_ERRORS:
                        found.errors.append(batches.error(*line.error, line.number))
                    continue
                try:
                    await endpoint.answer(line.body, line.id)
                except _ToBeScored as request:
                    found.num_to_score += 1
                    for index, example in enumerate(request.examples):
                        group = self._groups.find(request.head, example, request.options)
                        group.add(line.number, index, example)
        self._batch.write("work/lines", {"lines": asdict(found), "groups": self._groups.record()})
        # Until now a gateway may end the batch; from now on only its job does.
        return found if self._batch.must_end() is None else None

    def _refusal(self, lines: _Lines) -> list[dict[str, Any]]:
        """Why the batch as a whole is not answered; empty where it is."""
        most = self._request["max_requests"]
        if lines.num_lines > most:
            return [batches.error("too_many_requests", f"the file has more than {most} requests, the limit", most + 1)]
        if not lines.num_lines:
            return [batches.error("empty_file", "the file has no requests")]
        return lines.errors if lines.num_errors == lines.num_lines else []

    def _score(self, watch: Watch, lines: _Lines) -> None:
        """Scores what is left, until the batch has to end."""

        def tell() -> None:
            num_scored = sum(group.count_scored() for group in self._groups)
            # An estimate from the rows that are scored; exact if each request has one input.
            counts = lines.counts(lines.num_to_score * num_scored // max(1, self._groups.num_rows))
            if num_scored != self._batch.state.get("num_scored"):
                self._batch.to_state("in_progress", request_counts=counts, num_scored=num_scored)

        tell()
        watch.run(lambda: self._groups.score(self._request["max_actors"], sys.stdout), tell)

    async def _answer(self, watch: Watch) -> dict[str, Any]:
        """Writes the output file and the error file. Gives their ids and the counts, as the batch's state has them."""
        records: list[dict[str, Any]] = []

        def look_up(head: BatchHead, examples: list[Any], options: Any) -> list[dict[str, Any]]:
            for example in examples:
                self._groups.find(head, example, options)  # or raises, as when the file was read first
            if len(records) < len(examples):
                raise _NotScored
            return records

        scored = _by_line(heapq.merge(*(group.scored() for group in self._groups), key=lambda row: row[:2]))
        endpoint = Endpoint(self._request["served"], self._request["endpoint"], look_up)
        counts = {"total": 0, "completed": 0, "failed": 0}
        was_ending = watch.ending is not None
        with ExitStack() as stack:
            stream = stack.enter_context(self._files.open(self._request["input_file_id"]))
            ids = {kind: self._file_id(kind) for kind in ("output", "error")}
            output, errors = (
                stack.enter_context(self._batch.storage.writing(self._files.content_path(ids[kind]))) for kind in ids
            )
            for line in self._lines(stream, endpoint):
                counts["total"] += 1
                records = scored(line.number)
                error, status, body = line.error, 0, b""
                # Cancelled or expired while answers are written: the other requests become errors. Before that: what is
                # scored is answered.
                if error is None and watch.ending is not None and not (was_ending and records):
                    error = self._unanswered(watch.ending)
                elif error is None:
                    try:
                        status, body = await endpoint.answer(line.body, line.id)
                    except _NotScored:
                        error = self._unanswered(watch.ending)
                good = status == 200
                counts["completed" if good else "failed"] += 1
                (output if good else errors).write(_answered(line, error, status, body))
        for kind, number in (("output", counts["completed"]), ("error", counts["failed"])):
            if number:
                self._files.publish(ids[kind], f"{self._batch.id}_{kind}.jsonl", "batch_output")
            else:
                self._batch.storage.delete(self._files.content_path(ids[kind]))
        return {
            "output_file_id": ids["output"] if counts["completed"] else None,
            "error_file_id": ids["error"] if counts["failed"] else None,
            "request_counts": counts,
        }

    def _unanswered(self, ending: str | None) -> tuple[str, str]:
        """Code and message for a request without an answer."""
        if ending is None:
            return "not_scored", "it could not be scored; the log of the batch's job has the reason"
        if ending == "failed":
            failure = self._batch.read("failure") or {}
            return "batch_failed", f"not answered before the batch failed: {failure.get('message')}"
        why = {"cancelled": "it was cancelled", "expired": "its completion window was over"}[ending]
        return f"batch_{ending}", f"the batch ended before the request was answered: {why}"

    def _file_id(self, kind: str) -> str:
        """Always the same, so that a job that goes on writes the same file."""
        own = self._batch.id.removeprefix("batch_")
        return f"file-{own[:16]}{sha256(f'{own} {kind}'.encode()).hexdigest()[:8]}"


def _answered(line: Line, error: tuple[str, str] | None, status: int, body: bytes) -> bytes:
    """The line of the output file or error file."""
    names = json.dumps({"id": line.id, "custom_id": line.custom_id})[:-1].encode()
    if error is not None:
        shown = {"code": error[0], "message": error[1], "line": line.number}
        return names + b', "response": null, "error": ' + json.dumps(shown).encode() + b"}\n"
    head = json.dumps({"status_code": status, "request_id": line.id})[:-1].encode()
    return names + b', "response": ' + head + b', "body": ' + body + b'}, "error": null}\n'


def _by_line(rows: Iterator[Row]) -> Callable[[int], list[dict[str, Any]]]:
    """A function that gives the records of a line. It is asked for lines in order, as `rows` has them."""
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
