"""API keys: read once from a file or the environment, compared in constant time, never kept in the clear.

It knows no HTTP: the gateway hands over what stood behind `Authorization: Bearer`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path


class ApiKeys:
    """A set of accepted keys. An empty set means an open server.

    Only digests are kept, so neither a log line, a traceback with locals nor a heap dump shows a key.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys if key)

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._digests)} keys)"

    @property
    def required(self) -> bool:
        return bool(self._digests)

    def accept(self, key: str | None) -> bool:
        """True when no key is required or `key` is one of them; every key is compared, whatever the outcome."""
        if not self._digests:
            return True
        given = _digest(key or "")
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches)

    @classmethod
    def load(cls, *, file: str | None = None, environment_variable: str | None = None) -> ApiKeys:
        """Keys from a file (one a line, `#` starts a comment line) and from a comma-separated variable.

        Raises ValueError when a source was named and holds no key: a server that was meant to be closed must
        not come up open.
        """
        keys: list[str] = []
        if file is not None:
            lines = (line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines())
            found = [line for line in lines if line and not line.startswith("#")]
            if not found:
                raise ValueError(f"api_keys_file {file} holds no key")
            keys += found
        if environment_variable is not None:
            found = [key.strip() for key in os.environ.get(environment_variable, "").split(",") if key.strip()]
            if not found:
                raise ValueError(f"environment variable {environment_variable} holds no API key")
            keys += found
        return cls(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8")).digest()
