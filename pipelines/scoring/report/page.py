"""The page of a report: one HTML file with everything in it, drawn from the facts alone.

No script, no font, no picture from elsewhere, so it can be opened years later or sent to somebody. Bars are inline
SVG with a title on each, which a browser shows on hovering. Every text of a document is escaped.

Does not know where facts come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

# Texts of an example in which entities, or an answer, are marked.
MARKED = ("text", "context")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --bar: #2f6fde; --line: #8884; --card: #8881; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --bar: #6ea0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.soft, figcaption, th { color: var(--soft); font-weight: normal; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1.2rem; }
.facts div { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; }
.facts b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
figure { margin: 0; } svg { width: 100%; height: 9rem; display: block; border-bottom: 1px solid var(--line); }
rect { fill: var(--bar); } rect:hover { opacity: .7; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; }
article { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; margin: .6rem 0; }
article p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0 0; font-size: .9rem; }
article p { max-height: 16rem; overflow: auto; }
mark { background: #ffd86b66; color: inherit; border-radius: .2rem; padding: 0 .15rem; }
mark small { color: var(--soft); margin-left: .25rem; }
"""


def page(facts: Mapping[str, Any]) -> str:
    """The page for the facts that `pipelines.scoring.report.report.collect` gives."""
    errors = sum(facts["errors"].values())
    rates = [point["tokens_per_s"] for point in facts["throughput"]]
    boxes = [
        ("documents", f"{facts['documents']:,}"),
        ("tokens", f"{facts['tokens']:,}"),
        ("errors", f"{errors:,}"),
        ("truncated", f"{facts['truncated']:,}"),
        ("tokens/s, mean", f"{sum(rates) / max(len(rates), 1):,.0f}"),
        ("files", f"{facts['files']:,}"),
    ]
    parts = [
        "<header>",
        f"<h1>{escape(facts['task'])}</h1><div class=soft>{escape(facts['output'])}</div>",
        f"<div class=facts>{''.join(f'<div><b>{value}</b>{name}</div>' for name, value in boxes)}</div>",
        "</header>",
        _errors(facts),
        _histogram("Throughput over time, tokens a second", _rates(facts["throughput"])),
        _histogram("Documents by tokens", _counts(facts["tokens_per_document"])),
        _histogram(f"Documents by {facts['score']}", _counts(facts["scores"])),
        _actors(facts["actors"]),
        *(_documents(end["end"], end["documents"]) for end in facts["documents_at_the_ends"]),
    ]
    title = f"{escape(facts['task'])}: {facts['documents']:,} documents"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _rates(throughput: Iterable[Mapping[str, float]]) -> list[tuple[str, float]]:
    return [(f"{point['after_s']:,.0f} s", point["tokens_per_s"]) for point in throughput]


def _counts(bins: Iterable[Mapping[str, float]]) -> list[tuple[str, float]]:
    return [(f"{b['from']:,} to {b['to']:,}", b["documents"]) for b in bins]


def _histogram(title: str, bars: Sequence[tuple[str, float]]) -> str:
    """Bars with their label and value as a title; nothing where there are no bars."""
    top = max((value for _, value in bars), default=0)
    if not top:
        return ""
    width = 100 / len(bars)
    rects = "".join(
        f'<rect x="{index * width:.3f}" y="{100 - 100 * value / top:.2f}" width="{width * 0.9:.3f}" '
        f'height="{100 * value / top:.2f}"><title>{escape(label)}: {value:,.0f}</title></rect>'
        for index, (label, value) in enumerate(bars)
    )
    axis = f"<div class=axis><span>{escape(bars[0][0])}</span><span>highest bar: {top:,.0f}</span>"
    axis += f"<span>{escape(bars[-1][0])}</span></div>"
    svg = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{rects}</svg>'
    return f"<h2>{escape(title)}</h2><figure>{svg}{axis}</figure>"


def _errors(facts: Mapping[str, Any]) -> str:
    if not facts["errors"]:
        return ""
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td>{count:,}</td></tr>"
        for kind, count in sorted(facts["errors"].items(), key=lambda pair: -pair[1])
    )
    again = f"<p class=soft>{facts['retryable']:,} of them are tried again by the next start.</p>"
    return f"<h2>Errors by kind</h2><table>{rows}</table>{again if facts['retryable'] else ''}"


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
    pieces, position = [], 0
    for entity in sorted(entities, key=lambda entity: (entity["start"], -entity["end"])):
        start, end = entity["start"], entity["end"]
        if start < position or end > len(text) or end <= start:
            continue
        name = escape(str(entity.get("entity_group") or entity.get("entity")))
        pieces.append(escape(text[position:start]))
        marked = f"{escape(text[start:end])}<small>{name}</small>"
        pieces.append(f'<mark title="{name} {entity["score"]:.3f}">{marked}</mark>')
        position = end
    return "".join([*pieces, escape(text[position:])])
