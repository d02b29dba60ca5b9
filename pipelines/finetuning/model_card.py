"""The model card of a fine-tuned checkpoint, with a picture of its learning curve. Knows text and SVG only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN = 640, 320, 40
HUB_NAMES = {"masked-lm": "fill-mask", "causal-lm": "text-generation"}  # where the Hub's differs from the task's


def write_card(
    output: Path,
    job: Any,
    plan: Any,
    losses: Sequence[float],
    history: Sequence[Mapping[str, float]],
    figures: Mapping[str, float],
) -> None:
    """Write `README.md` and `learning-curve.svg`; `job` and `plan` are those of `pipelines.finetune`."""
    (output / "learning-curve.svg").write_text(learning_curve(losses, history))
    counts = "\n".join(
        f"| {part} | {c.documents:,} | {c.rows:,} | {c.cut_tokens:,} | "
        + ", ".join(f"{name} {number:,}" for name, number in sorted(c.labels.items()))
        + " |"
        for part, c in plan.counts.items()
    )
    table = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    options = ", ".join(f"{name} {value}" for name, value in asdict(job.options).items())
    (output / "README.md").write_text(
        f"""---
pipeline_tag: {HUB_NAMES.get(job.task, job.task)}
library_name: bigbird
---

# {job.output.rstrip("/").rpartition("/")[2]}

`{job.task}`, fine-tuned from `{job.model}` in {len(losses):,} steps by `python -m pipelines.finetune`.

## Held-out figures

| figure | value |
|---|---|
{table}

## Data

Fingerprint of both files: `{plan.fingerprint}`. No text of the evaluation rows is among the training rows.

| part | documents | rows of at most {plan.max_length:,} tokens | spans that cut a token | labels |
|---|---|---|---|---|
{counts}

## Training

{options}.

![loss](learning-curve.svg)
"""
    )


def learning_curve(losses: Sequence[float], history: Sequence[Mapping[str, float]]) -> str:
    """An SVG of the training loss (line) and the held-out loss (dots) over the steps."""
    top = max([*losses, *(entry["loss"] for entry in history), 1e-9])

    def place(step: float, loss: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / max(1, len(losses))
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * loss / top

    line = " ".join("{:.1f},{:.1f}".format(*place(step, loss)) for step, loss in enumerate(losses, start=1))
    dots = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="#c40"/>'.format(*place(entry["step"], entry["loss"]))
        for entry in history
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<polyline points="{line}" fill="none" stroke="#246"/>{dots}'
        f'<text x="{MARGIN}" y="{MARGIN - 12}">loss, {top:.3f} at the top, 0 at the bottom; dots: held out</text>'
        f'<text x="{WIDTH - 2 * MARGIN}" y="{HEIGHT - 12}">step {len(losses)}</text></svg>\n'
    )
