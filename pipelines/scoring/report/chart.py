"""Bar charts with axes, as SVG that a page holds inline. Knows numbers and their units, nothing of jobs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 900, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 15, 10, 45
_Y_TICKS = 4
_X_TICKS = 8


@dataclass(frozen=True)
class Bar:
    """A bar over [start, stop) of the axis below."""

    start: float
    stop: float
    value: float


def bar_chart(title: str, bars: Sequence[Bar], *, below: str, beside: str) -> str:
    """Bars of equal width with ticks on both axes and their units; each bar has its value as a title.

    below, beside: what the axes count, with the unit. Nothing where every bar is zero.
    """
    top = max((bar.value for bar in bars), default=0.0)
    if not top:
        return ""
    step = _nice_step(top / _Y_TICKS)
    highest = step * math.ceil(top / step - 1e-9)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    each = width / len(bars)
    floor = _TOP + height
    parts = []
    for number in range(round(highest / step) + 1):
        y = floor - height * number * step / highest
        parts.append(f'<line class=grid x1="{_LEFT}" x2="{_LEFT + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor=end>{number * step:,.10g}</text>')
    for index, bar in enumerate(bars):
        tall = height * bar.value / highest
        label = f"{bar.start:,.6g} to {bar.stop:,.6g}: {bar.value:,.0f}"
        parts.append(
            f'<rect x="{_LEFT + index * each:.2f}" y="{floor - tall:.2f}" width="{each * 0.92:.2f}" '
            f'height="{tall:.2f}"><title>{escape(label)}</title></rect>'
        )
    edges = [*(bar.start for bar in bars), bars[-1].stop]
    for index in range(0, len(edges), math.ceil(len(edges) / _X_TICKS)):
        x = _LEFT + index * each
        parts.append(f'<line class=tick x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 5}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor=middle>{edges[index]:,.6g}</text>')
    middle, centre = _LEFT + width / 2, _TOP + height / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor=middle>{escape(below)}</text>')
    parts.append(f'<text transform="translate(14 {centre}) rotate(-90)" text-anchor=middle>{escape(beside)}</text>')
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<h2>{escape(title)}</h2><figure>{svg}</figure>"


def _nice_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`; counts have no fractions."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
    return max(step, 1.0) if least >= 0.25 else step
