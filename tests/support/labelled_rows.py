"""Labelled rows for fine-tuning, of which a word tells the label."""

from typing import Any

LAKES = ("Zürich", "Como", "Ohrid", "Tana", "Biwa", "Ladoga")


def tagged(count: int, lengths: int = 4) -> list[dict[str, Any]]:
    """In turn of so many lengths, the third of which the tiny model's sparse attention reads."""
    rows = []
    for number in range(count):
        before = f"{number} " + "block of tokens and " * (1 + 8 * (number % lengths))
        lake = LAKES[number % len(LAKES)]
        entity = {"start": len(before), "end": len(before + lake), "label": "LAKE"}
        rows.append({"text": f"{before}{lake} is long", "entities": [entity]})
    return rows


def classified(count: int, labels: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """Two lakes have a label, whatever stands before them."""
    texts = [row["text"] for row in tagged(count, lengths=2)]
    return [{"text": text, "label": labels[number % len(LAKES) // 2]} for number, text in enumerate(texts)]


def questions(count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        lake = LAKES[number % len(LAKES)]
        before = "reads the first block " * (1 + number % 5) + f"{number}: the lake is "
        answers = {"text": [lake], "answer_start": [len(before)]}
        rows.append({"question": "which lake?", "context": f"{before}{lake} and it is long", "answers": answers})
    return rows


def choices(count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        texts = [f"{lake} is a lake" if i == number % 3 else f"tokens of {lake}" for i, lake in enumerate(LAKES[:3])]
        rows.append({"prompt": f"{number}: which is it", "choices": texts, "label": number % 3})
    return rows
