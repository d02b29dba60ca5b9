"""Where traces go: an OpenTelemetry collector. Serve calls `exporter` in each of its processes that it names.

    RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=serving.otlp:exporter

`tracing_config` in serve.yaml does the same, but not for Serve's proxies. Needs the extra `otlp`. OpenTelemetry's own
variables say the rest, OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME first of all.
"""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def exporter() -> list[SpanProcessor]:
    """What Serve adds to its tracer."""
    return [BatchSpanProcessor(OTLPSpanExporter())]
