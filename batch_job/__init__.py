"""The job behind a batch: requests of a file answered by the scoring job, in the words of the service.

    python -m batch_job STORAGE OWNER BATCH

Joins the two applications, which never import each other: `serving` says what a request asks for and how an answer
looks, `pipelines` scores. `serving.batches.jobs` submits it to the cluster; whatever stops it, the same command goes on
where it was.
"""
