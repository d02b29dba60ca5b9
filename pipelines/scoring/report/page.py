"""The page of a report: one HTML file with everything in it, drawn from the report alone.

No script, no font, no picture from elsewhere, so it can be opened years later or sent to somebody. Charts are inline
SVG. Every text of a document is escaped.

Does not know where the numbers come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pipelines.scoring.report.chart import Bar, bar_chart

# Texts of an example in which entities, or an answer, are marked.
MARKED = ("text", "context")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --bar: #2f6fde; --line: #8884; --card: #8881; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --bar: #6ea0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h1.score { margin-top: 3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.soft, figcaption, th { color: var(--soft); font-weight: normal; }
.boxes { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1.2rem; }
.boxes div { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; }
.boxes b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
figure { margin: 0; } svg { width: 100%; display: block; } svg text { fill: var(--soft); font-size: 12px; }
rect { fill: var(--bar); } rect:hover { opacity: .7; } line { stroke: var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; }
article { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; margin: .6rem 0; }
article p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 0; font-size: .9rem; }
article p { max-height: 16rem; overflow: auto; }
mark { background: #ffd86b66; color: inherit; border-radius: .2rem; padding: 0 .15rem; }
mark small { color: var(--soft); margin-left: .25rem; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The page for the report that `pipelines.scoring.report.report.collect` gives."""
    errors = sum(report["errors"].values())
    sections = report.get("sections", {"": report})
    what = ", ".join(f"{name}: {section['task']}" if name else section["task"] for name, section in sections.items())
    rates = [point["tokens_per_s"] for point in report["throughput"]]
    boxes = [
        ("documents", f"{report['documents']:,}"),
        ("tokens", f"{report['tokens']:,}"),
        ("errors", f"{errors:,}"),
        ("truncated", f"{sum(section['truncated'] for section in sections.values()):,}"),
        ("tokens/s, mean", f"{sum(rates) / max(len(rates), 1):,.0f}"),
        ("files", f"{report['files']:,}"),
    ]
    if report.get("starting_s") is not None:
        boxes.append(("seconds of starting", f"{report['starting_s']:,.1f}"))
    parts = [
        "<header>",
        f"<h1>{escape(what)}</h1><div class=soft>{escape(report['output'])}</div>",
        f"<div class=boxes>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in boxes)}</div>",
        "</header>",
        _errors(report),
        _costs(report["costs"]) if "costs" in report else "",
        _throughput(report),
        _actors(report["actors"]),
        *(_section(name, section) for name, section in sections.items()),
    ]
    title = f"{escape(what)}: {report['documents']:,} documents"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _throughput(report: Mapping[str, Any]) -> str:
    times = [(point["after_s"], point["tokens_per_s"]) for point in report["throughput"]]
    width = times[1][0] - times[0][0] if len(times) > 1 else 1.0
    rates = [Bar(after, after + width, rate) for after, rate in times]
    return bar_chart("Throughput over time", rates, below="seconds of scoring", beside="tokens a second")


def _section(name: str, section: Mapping[str, Any]) -> str:
    """What is said of one score; name: "" of the only one."""
    tokens = [Bar(b["from"], b["to"] + 1, b["documents"]) for b in section["tokens_per_document"]]
    scores = [Bar(b["from"], b["to"], b["documents"]) for b in section["scores"]]
    heading = f"<h1 class=score>{escape(name)}: {escape(section['task'])}</h1>" if name else ""
    return "".join(
        (
            heading,
            bar_chart("Documents by tokens", tokens, below="tokens of a document", beside="documents"),
            bar_chart(f"Documents by {section['score']}", scores, below=section["score"], beside="documents"),
            *(_documents(end["end"], end["documents"]) for end in section["documents_at_the_ends"]),
        )
    )


def _errors(report: Mapping[str, Any]) -> str:
    if not report["errors"]:
        return ""
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td>{count:,}</td></tr>"
        for kind, count in sorted(report["errors"].items(), key=lambda pair: -pair[1])
    )
    again = f"<p class=soft>{report['retryable']:,} of them are tried again by the next start.</p>"
    return f"<h2>Errors by kind</h2><table>{rows}</table>{again if report['retryable'] else ''}"


def _costs(costs: Mapping[str, Any]) -> str:
    """What the job took, beside what was predicted where `--estimate` ran before it."""
    actual, predicted = costs["actual"], costs["predicted"]
    columns = [actual] if predicted is None else [predicted, actual]
    heads = ["actual"] if predicted is None else ["predicted", "actual", "actual to predicted"]
    rows = []
    for name in actual:
        values = [column[name] for column in columns]
        if None in values:
            continue
        cells = [f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" for value in values]
        if predicted is not None:
            cells.append(f"{values[1] / values[0]:.2f}" if values[0] else "")
        rows.append(f"<tr><td>{name.replace('_', ' ')}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", *heads))
    return f"<h2>Time, tokens and cost</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _actors(actors: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(a['actor'])}</td><td>{a['files']:,}</td><td>{a['tokens']:,}</td><td>{a['busy']:.0%}</td></tr>"
        for a in actors[:50]
    )
    more = f"<p class=soft>and {len(actors) - 50:,} more</p>" if len(actors) > 50 else ""
    head = "<tr><th>process</th><th>files</th><th>tokens</th><th>busy</th></tr>"
    return f"<h2>Actors</h2><table>{head}{rows}</table>{more}" if actors else ""


def _documents(end: str, documents: Sequence[Mapping[str, Any]]) -> str:
    if not documents:
        return ""
    articles = []
    for document in documents:
        origin = f"{escape(document['file'])}, row {document['row']:,}"
        lines = [f"<b>{document['score']:.4g}</b> <span class=soft>{origin}</span>"]
        for name in ("question", "prompt", "context", "text", "text_pair", "answer", "generated_text"):
            if document.get(name):
                entities = document.get("entities") or [] if name in MARKED else []
                text = _marked(document[name], entities)
                label = "" if name == "text" else f"<span class=soft>{name.replace('_', ' ')}</span> "
                lines.append(f"<p>{label}{text}</p>")
        labels = document.get("labels") or []
        if labels:
            lines.append("<p>" + ", ".join(f"{escape(x['label'])} {x['score']:.3f}" for x in labels) + "</p>")
        articles.append(f"<article>{''.join(lines)}</article>")
    return f"<h2>The {escape(end)}</h2>{''.join(articles)}"


def _marked(text: str, entities: Iterable[Mapping[str, Any]]) -> str:
    """The text, escaped, with its entities marked; of entities that overlap the first wins."""
    marked_up, position = [], 0
    for entity in sorted(entities, key=lambda entity: (entity["start"], -entity["end"])):
        start, end = entity["start"], entity["end"]
        if start < position or end > len(text) or end <= start:
            continue
        name = escape(str(entity.get("entity_group") or entity.get("entity")))
        marked_up.append(escape(text[position:start]))
        marked = f"{escape(text[start:end])}<small>{name}</small>"
        marked_up.append(f'<mark title="{name} {entity["score"]:.3f}">{marked}</mark>')
        position = end
    return "".join([*marked_up, escape(text[position:])])
