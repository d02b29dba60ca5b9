"""The job that answers a batch: the requests of its input file are scored by scoring jobs, and each answer is what the
HTTP endpoint gives.

    python -m batch_job STORAGE OWNER BATCH

It joins the two applications, which never import each other: `serving` reads requests and writes answers, `pipelines`
scores. `serving.batches.jobs` submits the command to the cluster. After a job was stopped, the same command goes on.
"""
