"""Names of a package that are imported when they are first asked for."""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def asked_for(package: str, places: Mapping[str, str], name: str) -> Any:
    """A public name of a package, which `places` gives the module of, or one of its modules; the package keeps it.

    Raises AttributeError for any other name.
    """
    if name in places:
        found = getattr(import_module(places[name]), name)
        setattr(sys.modules[package], name, found)
        return found
    if not name.startswith("_") and find_spec(f"{package}.{name}"):
        return import_module(f"{package}.{name}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
