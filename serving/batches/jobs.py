"""Keeps a Ray job running for every batch that has not ended, on the cluster that the service runs on.

The job is `python -m batch_job`, which goes on where an earlier one was stopped. Its submission id follows from the
batch and the number of jobs before it, so that of two gateways that both submit it one is refused by Ray. It knows
Ray's jobs and what a batch says of itself, not what a job does.
"""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient

from serving.batches.batches import Batch, open_batches
from serving.batches.storage import Storage

logger = logging.getLogger("ray.serve.bigbird")

_LOOK_S = 10.0
# A job that ends with an error is tried again, in case a node or the storage was the reason. One that was killed is
# not counted: it goes on where it was. One that cannot even begin is known by its exit code alone.
_MAX_FAILURES = 3
# Of the environment of a replica, what a job needs to run the same code.
_CODE = ("working_dir", "py_modules", "pip", "uv", "conda", "container", "image_uri", "env_vars")


class BatchJobs:
    """max_jobs: batches in progress at the same time."""

    def __init__(self, storage: Storage, max_jobs: int) -> None:
        self._storage = storage
        self._max_jobs = max_jobs
        self._wake = threading.Event()

    def wake(self) -> None:
        """There is a new batch."""
        self._wake.set()

    def watch(self) -> None:
        """Looks after the batches for as long as the process lives."""
        while True:
            try:
                self.look()
            except Exception as error:  # the storage or the dashboard: both come back
                logger.warning("batches cannot be looked after: %s", " ".join(str(error).split())[:500])
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def look(self) -> None:
        """Submits a job for each batch that needs one, the oldest first, as far as others have ended."""
        open_ones = list(open_batches(self._storage))
        if not open_ones:
            return
        client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
        # Before the batches are read: a job that has ended by now has said how.
        jobs: dict[str, list[Any]] = {}
        for job in client.list_jobs():
            jobs.setdefault(str(job.submission_id).rpartition("-")[0], []).append(job)
        num_running = 0
        waiting = []
        for batch in open_ones:
            if batch.ended:
                batch.close()
            elif not all(job.status.is_terminal() for job in jobs.get(batch.id, [])):
                num_running += 1
            elif not self.given_up(batch, jobs.get(batch.id, [])):
                waiting.append(batch)
        for batch in waiting[: max(0, self._max_jobs - num_running)]:
            self._submit(client, batch, len(jobs.get(batch.id, [])))

    @staticmethod
    def given_up(batch: Batch, jobs: list[Any]) -> bool:
        """Whether a batch has failed for good, by its own word or by what Ray says of its jobs."""
        failed = [job for job in jobs if 0 < (job.driver_exit_code or 0) < 128]  # above: by a signal
        told: dict[str, Any] = {"number": len(failed), "message": failed[-1].message if failed else ""}
        failure = batch.read("failure") or told
        if max(failure["number"], len(failed)) < _MAX_FAILURES:
            return False
        error = {"code": "job_failed", "message": failure["message"], "param": None, "line": None}
        batch.to_state("failed", errors={"object": "list", "data": [error]})
        return True

    def _submit(self, client: JobSubmissionClient, batch: Batch, num_before: int) -> None:
        own = dict(ray.get_runtime_context().runtime_env)
        # Ray itself may tell a job of any cluster that it finds running on the machine.
        cluster = f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}"
        command = ["env", cluster, sys.executable, "-m", "batch_job", self._storage.root, batch.owner, batch.id]
        try:
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"{batch.id}-{num_before + 1}",
                runtime_env={name: own[name] for name in _CODE if name in own},
                metadata={"batch": batch.id},
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
        else:
            logger.info("batch %s: job %d submitted", batch.id, num_before + 1)
