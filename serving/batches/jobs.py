"""Gives every batch that has not ended a running Ray job, on the cluster of the service.

The job is `python -m batch_job`. A new job goes on where the one before it was stopped. Its submission id is the
batch's id and the number of the job: where two gateways submit the same job, Ray refuses the second. This knows Ray's
jobs and the records of a batch, not what a job does.
"""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient

from serving.batches.batches import Batch, error, errors, open_batches
from serving.batches.storage import Storage

logger = logging.getLogger("ray.serve.bigbird")

_LOOK_S = 10.0
# A node or the storage may be the reason why a job ends early, so there is another one: until so many in a row, failed
# or killed, got the batch no further.
MAX_TRIES = 3
# The parts of a replica's runtime environment that a job needs to run the same code.
_CODE = ("working_dir", "py_modules", "pip", "uv", "conda", "container", "image_uri", "env_vars")
_MAX_MESSAGE = 1000


@contextmanager
def _alone(batch: Batch) -> Iterator[None]:
    """Logs what is wrong with one batch, so that it keeps no other from being looked after."""
    try:
        yield
    except Exception as failed:
        logger.warning("batch %s cannot be looked after: %s", batch.id, " ".join(str(failed).split())[:500])


class BatchJobs:
    """max_jobs: batches in progress at the same time."""

    def __init__(self, storage: Storage, max_jobs: int) -> None:
        self._storage = storage
        self._max_jobs = max_jobs
        self._wake = threading.Event()

    def wake(self) -> None:
        """A batch was created or cancelled."""
        self._wake.set()

    def watch(self) -> None:
        """Looks after the batches for as long as the process lives."""
        while True:
            try:
                self.look()
            except Exception as failed:  # the storage or the dashboard: both come back
                logger.warning("batches cannot be looked after: %s", " ".join(str(failed).split())[:500])
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def look(self) -> None:
        """Ends batches that have to end and were not begun, and submits jobs: the oldest batches first."""
        left = []
        for batch in open_batches(self._storage):
            with _alone(batch):
                if not self._closed(batch):
                    left.append(batch)
        if not left:
            return
        client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
        jobs: dict[str, list[Any]] = {}
        for job in client.list_jobs():
            jobs.setdefault(str(job.submission_id).rpartition("-")[0], []).append(job)
        # Only now: the state of a batch whose job has ended by then is its last.
        ending: list[tuple[Batch, int]] = []
        waiting: list[tuple[Batch, int]] = []
        num_running = 0
        for batch in left:
            own = sorted(jobs.get(batch.id, []), key=lambda job: int(job.submission_id.rpartition("-")[2]))
            with _alone(batch):
                if batch.ended:
                    continue
                if not all(job.status.is_terminal() for job in own):
                    num_running += 1
                elif self._may_try(batch, own):
                    (waiting if batch.must_end() is None else ending).append((batch, len(own)))
        # A batch that has to end does not wait: its job only writes the answers that there are.
        for batch, num_before in ending + waiting[: max(0, self._max_jobs - num_running)]:
            self._submit(client, batch, num_before)

    @staticmethod
    def _closed(batch: Batch) -> bool:
        """Whether nothing is left to do for a batch: it has ended, or it has to and its file is not read yet."""
        if not batch.state and (status := batch.must_end()) is not None:
            batch.end_unread(status)
        elif not batch.ended:
            return False
        batch.close()
        return True

    @staticmethod
    def _may_try(batch: Batch, jobs: list[Any]) -> bool:
        """Whether the batch gets another job after these. One that does not is given up: its failure is recorded.

        A batch with answers that is given up gets jobs again, which write them; if those end early too, it just ends.
        """
        state, status = batch.state, batch.must_end()
        progress = [status, *(state.get(name) for name in ("in_progress_at", "finalizing_at", "num_scored"))]
        tries = batch.read("tries")
        # There are fewer jobs than before where the cluster is a new one.
        if tries is None or tries["progress"] != progress or tries["num_jobs"] > len(jobs):
            tries = {"progress": progress, "num_jobs": len(jobs)}
            batch.write("tries", tries)
        if len(jobs) - tries["num_jobs"] < MAX_TRIES:
            return True
        last = batch.read("last_error") or {"message": jobs[-1].message or "no reason is known"}
        reason = " ".join(last["message"].split())[-_MAX_MESSAGE:]
        failure = error("job_failed", f"{MAX_TRIES} jobs in a row got no further, the last of them: {reason}")
        if status is None:
            batch.write("failure", failure)
            if not state:
                batch.end_unread("failed")
            return bool(state)
        known = batch.read("failure")
        batch.end(status, errors=errors(*([known] if known else []), failure))
        return False

    def _submit(self, client: JobSubmissionClient, batch: Batch, num_before: int) -> None:
        own = dict(ray.get_runtime_context().runtime_env)
        # Otherwise Ray may take another cluster that it finds running on the machine.
        cluster = f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}"
        command = ["env", cluster, sys.executable, "-m", "batch_job", self._storage.root, batch.owner, batch.id]
        try:
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"{batch.id}-{num_before + 1}",
                runtime_env={name: own[name] for name in _CODE if name in own},
                metadata={"batch": batch.id},
            )
        except RuntimeError as refused:
            if "already exists" not in str(refused):
                raise
        else:
            logger.info("batch %s: job %d submitted", batch.id, num_before + 1)
