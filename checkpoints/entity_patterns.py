"""What regular expressions can do: the baseline the code-entity tagger has to be compared with.

`tag(text)` looks at a name and what stands right beside it. With `remember=True` it also keeps the names it saw
defined, imported or listed as parameters, and tags them wherever they stand in the file: scopes apart, that is how
the labels themselves are made, so it is a strong baseline.
"""

from __future__ import annotations

import re

from checkpoints.code_entities import BUILTIN_KINDS, Entity

_QUIET = re.compile(r'("""|\'\'\')(?:\\.|.)*?\1|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*', re.DOTALL)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_CLASS = re.compile(r"\bclass\s+(\w+)")
_FUNCTION = re.compile(r"\bdef\s+(\w+)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+\.*([\w.]+)|import[ \t]+([\w.]+)(?:[ \t]+as[ \t]+(\w+))?)", re.MULTILINE)
_PARAMETER = re.compile(r"(?:^|,)\s*\*{0,2}(\w+)")
_EXCEPTION = re.compile(r"[A-Z]\w*(Error|Exception|Warning)")
_CAMEL = re.compile(r"_?[A-Z]\w*[a-z]\w*")


def tag(text: str, *, remember: bool) -> list[Entity]:
    """Entities of a Python source, in order. Strings and comments are blanked first."""
    code = _QUIET.sub(lambda match: " " * len(match.group()), text)
    found: dict[tuple[int, int], str] = {}
    names: dict[str, str] = {}

    def add(span: tuple[int, int], label: str) -> None:
        found[span] = label
        names.setdefault(code[slice(*span)], label)

    for match in _CLASS.finditer(code):
        add(match.span(1), "EXCEPTION" if _EXCEPTION.fullmatch(match[1]) else "CLASS")
    for match in _FUNCTION.finditer(code):
        add(match.span(1), "FUNCTION")
        for parameter in _PARAMETER.finditer(match[2]):
            if parameter[1] not in ("self", "cls") and not parameter[1].isdigit():
                start = match.start(2) + parameter.start(1)
                add((start, start + len(parameter[1])), "PARAMETER")
    for match in _IMPORT.finditer(code):
        group = 1 if match[1] else 2
        found[match.span(group)] = "MODULE"
        if group == 2:
            names.setdefault(match[3] or match[2].partition(".")[0], "MODULE")
    taken = {start for start, _ in found}
    for match in _NAME.finditer(code):
        name = match.group()
        label = (names.get(name) if remember else None) or BUILTIN_KINDS.get(name)
        if label is None and _EXCEPTION.fullmatch(name):
            label = "EXCEPTION"
        if label is None and _CAMEL.fullmatch(name) and not remember:
            label = "CLASS"
        if label and match.start() not in taken:
            found[match.span()] = label
    return sorted(Entity(start, end, label) for (start, end), label in found.items())
