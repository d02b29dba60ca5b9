"""The command: one batch, named by its storage, owner and id."""

import sys
from collections.abc import Sequence

from batch_job.run import BatchRun
from serving.batches.batches import Batch
from serving.batches.storage import Storage


def main(argv: Sequence[str]) -> None:
    """Raises what stopped the job, once the batch's failure.json says it."""
    root, owner, batch_id = argv
    batch = Batch(Storage(root), owner, batch_id)
    try:
        BatchRun(batch).run()
    except Exception as error:
        before = batch.read("failure") or {"number": 0}
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
        batch.write("failure", {"number": before["number"] + 1, "message": message})
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
