"""The command: one batch, named by its storage, owner and id."""

import sys
from collections.abc import Sequence

from batch_job.run import BatchRun
from serving.batches.batches import Batch
from serving.batches.storage import Storage


def main(argv: Sequence[str]) -> None:
    """Raises what stopped the job; last_error.json of the batch then has it."""
    root, owner, batch_id = argv
    batch = Batch(Storage(root), owner, batch_id)
    batch.delete("last_error")
    try:
        BatchRun(batch).run()
    except Exception as error:
        batch.write("last_error", {"message": f"{type(error).__name__}: {' '.join(str(error).split())}"})
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
