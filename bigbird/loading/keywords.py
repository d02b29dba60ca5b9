"""Keyword arguments that a call takes by name only: the known ones apart, the others refused as Python refuses them."""

from collections.abc import Iterable
from difflib import get_close_matches


def refuse_unknown(call: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for the first name that the call does not know, with the nearest one that it does."""
    names = sorted(known)
    for name in given:
        if name not in names:
            (near,) = get_close_matches(name, names, n=1, cutoff=0)
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}; the nearest it takes is {near!r}")
