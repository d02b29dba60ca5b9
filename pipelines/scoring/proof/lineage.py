"""A receipt as an event of OpenLineage (https://openlineage.io): what was read, what was written, by which run.

Facets: schema and columns of both, statistics of inputs and output, versions. Nothing is sent anywhere: the event
stands in the receipt, and whoever keeps lineage posts it.
"""

import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

PRODUCER = "urn:bigbird-on-ray"

_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"


def complete_event(receipt: Mapping[str, Any], read: pa.Schema, written: pa.Schema) -> dict[str, Any]:
    """The event that says a job is complete. The run's id follows from the receipt's parts."""
    inputs, parts = receipt["inputs"]["files"], receipt["parts"]
    run_id = uuid.UUID(receipt["parts_sha256"][:32], version=4)
    output = _dataset(receipt["output"], written)
    statistics = {
        "rowCount": receipt["rows"],
        "size": sum(part["size"] for part in parts),
        "fileCount": len(parts),
    }
    output["outputFacets"] = {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", statistics)}
    return {
        "eventType": "COMPLETE",
        "eventTime": receipt["finished"],
        "producer": PRODUCER,
        "schemaURL": _EVENT,
        "run": {
            "runId": str(run_id),
            "facets": {
                "processing_engine": _facet(
                    "1-1-1/ProcessingEngineRunFacet", {"name": "ray", "version": receipt["code"]["ray"]}
                )
            },
        },
        "job": {
            "namespace": "bigbird-score",
            "name": receipt["output"],
            "facets": {
                "jobType": _facet(
                    "2-0-3/JobTypeJobFacet", {"processingType": "BATCH", "integration": "RAY", "jobType": "JOB"}
                )
            },
        },
        "inputs": [
            _dataset(file["name"], read)
            | {
                "inputFacets": {
                    "inputStatistics": _facet(
                        "1-0-0/InputStatisticsInputDatasetFacet",
                        {"rowCount": file["rows"], "size": file["size"], "fileCount": 1},
                    )
                }
            }
            for file in inputs
        ],
        "outputs": [output],
    }


def _dataset(name: str, schema: pa.Schema) -> dict[str, Any]:
    """A path or URI by OpenLineage's naming: scheme and authority are the namespace, the rest is the name."""
    scheme, separator, rest = name.partition("://")
    bucket, _, path = rest.partition("/")
    namespace, inner = (f"{scheme}://{bucket}", path or "/") if separator else ("file", name)
    fields = [{"name": field.name, "type": str(field.type)} for field in schema]
    return {
        "namespace": namespace,
        "name": inner,
        "facets": {"schema": _facet("1-1-1/SchemaDatasetFacet", {"fields": fields})},
    }


def _facet(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    name = kind.partition("/")[2]
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{kind}.json#/$defs/{name}", **content}
