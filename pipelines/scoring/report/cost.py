"""What a job took, in hours and money, beside what `--estimate` said before.

Time is that of scoring, pauses between starts left out, and of starting. A machine is paid for from the first file to
the last. Does not know how an estimate is made.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigbird.errors import InputError
from pipelines.scoring.ledger.parts import Footer
from pipelines.scoring.storage import Place, read_whole

ESTIMATE_SUFFIX = ".estimate.json"
PAUSE_S = 60.0


def check_price(price_per_hour: float | None) -> None:
    """Raises InputError for what is no price."""
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise InputError(f"price_per_hour is {price_per_hour}, expected at least 0")


def scoring_s(summaries: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in which a file was in the making; gaps of a minute and more lie between two starts."""
    total, latest = 0.0, None
    for summary in sorted(summaries, key=lambda summary: summary["started"]):
        start = summary["started"] if latest is None or summary["started"] - latest > PAUSE_S else latest
        latest = max(summary["finished"], latest or 0.0)
        total += max(0.0, latest - start)
    return total


def costs(
    output: Place, parts: Mapping[str, Footer], *, starting_s: float | None = None, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Actual and, where there is an estimate, predicted figures of the rows that it was about.

    price_per_hour: of one machine; None for that of the estimate, if it had one.
    """
    estimate = _estimate(output)
    summaries = [footer.summary for footer in parts.values()]
    since = [summary for summary in summaries if estimate is None or summary["started"] >= estimate["taken"]]
    if estimate is not None and not since:
        estimate, since = None, summaries  # of a job that is still to begin, or of another
    price = price_per_hour if price_per_hour is not None else (estimate or {}).get("price_per_hour")
    machines = len({summary["worker"].partition("-")[0] for summary in since})
    hours = (scoring_s(since) + (starting_s or 0.0)) / 3600
    actual = _figures(
        rows=sum(summary["documents"] for summary in since),
        tokens=sum(summary["tokens"] for summary in since),
        lost=sum(summary.get("lost", 0) for summary in since),
        doubled=sum(summary.get("doubled", 0) for summary in since),
        hours=hours,
        price=None if price is None else price * machines,
    )
    predicted = None
    if estimate is not None:
        found = {name: estimate["found"][name] for name in ("tokens", "lost", "doubled")}
        whole = None if price is None else price * estimate["machines"]
        predicted = _figures(rows=estimate["rows"], **found, hours=estimate["seconds"] / 3600, price=whole)
    return {"actual": actual, "predicted": predicted, "price_per_hour": price, "machines": machines}


def _estimate(output: Place) -> dict[str, Any] | None:
    """What `--estimate` left; of a damaged one nothing is said: the job that it was about is done."""
    try:
        estimate: dict[str, Any] = json.loads(read_whole(output.beside(ESTIMATE_SUFFIX)) or b"null")
        return estimate if {"taken", "found", "machines", "rows", "seconds"} <= estimate.keys() else None
    except (ValueError, AttributeError):
        return None


def _figures(
    *, rows: int, tokens: float, lost: float, doubled: float, hours: float, price: float | None
) -> dict[str, float | None]:
    """price: of an hour of all machines."""
    cost = None if price is None else hours * price
    return {
        "rows": rows,
        "tokens": round(tokens),
        "tokens_lost": round(lost),
        "tokens_doubled": round(doubled),
        "hours": hours,
        "cost": cost,
        "cost_per_million_tokens": None if cost is None or not tokens else cost / tokens * 1e6,
    }
