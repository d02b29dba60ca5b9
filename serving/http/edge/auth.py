"""API keys: from a file that may change while the server runs, or from the environment; and what each may use.

Compared in constant time, never kept in the clear. It knows no HTTP: the edge hands over what stood behind
`Authorization: Bearer`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ServingError
from serving.settings import GatewayArguments

logger = logging.getLogger("ray.serve.bigbird")

_LOOK_AT_FILE_S = 1.0
_LIMITS = ("requests_per_s=", "tokens_per_min=")


@dataclass(frozen=True)
class KeyLimits:
    """What one key may use, in each gateway; None: as much as it likes."""

    requests_per_s: float | None = None
    tokens_per_min: float | None = None


class KeyUse:
    """One key's use, against its limits. Tokens are counted once a request is answered."""

    def __init__(self, limits: KeyLimits, clock: Callable[[], float]) -> None:
        self._requests = _Bucket(limits.requests_per_s, 1.0, clock)
        self._tokens = _Bucket(limits.tokens_per_min, 60.0, clock)

    def begin(self) -> None:
        """Counts a request. Raises ServingError `overloaded` where the key has used what it may."""
        for bucket, what in ((self._requests, "requests_per_s"), (self._tokens, "tokens_per_min")):
            wait_s = bucket.wait_s()
            if wait_s > 0:
                raise ServingError(
                    "overloaded", f"this key has used its {what}, which is {bucket.limit:g}", retry_after_s=wait_s
                )
        self._requests.take(1)

    def end(self, num_tokens: int) -> None:
        """Counts the tokens of a request that was answered."""
        self._tokens.take(num_tokens)


class ApiKeys:
    """Accepted keys. None at all mean an open server.

    Only digests are kept, so neither a log line, a traceback with locals nor a heap dump shows a key.
    """

    def __init__(self, lines: Iterable[str], *, file: Path | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self._clock = clock
        self._fixed = _all_parsed(enumerate(lines, 1))
        self._file = file
        self._stamp = self._last_stamp = _stamp(file)
        self._looked = clock()
        self._uses: dict[bytes, tuple[KeyLimits, KeyUse]] = {}
        self._take({**self._fixed, **(_read(file) if file is not None else {})})

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._uses)} keys)"

    @property
    def required(self) -> bool:
        return bool(self._uses)

    def find(self, key: str | None) -> KeyUse | None:
        """The use of `key`, None where it is not accepted; every key is compared, whatever the outcome.

        key: as a header gives it, a character a byte.
        """
        self._look_at_file()
        given = _digest((key or "").encode("latin-1", "backslashreplace"))
        found = None
        for known, (_, use) in self._uses.items():
            if hmac.compare_digest(given, known):
                found = use
        return found

    def _look_at_file(self) -> None:
        """Reads the file again where it has changed since the last look but one: one that is just being written may
        end in the middle of a key. What cannot be read changes nothing."""
        if self._file is None or self._clock() - self._looked < _LOOK_AT_FILE_S:
            return
        self._looked = self._clock()
        last, self._last_stamp = self._last_stamp, _stamp(self._file)
        if self._last_stamp in (None, self._stamp) or self._last_stamp != last:
            return
        try:
            keys = _read(self._file)
        except (OSError, ValueError) as error:
            logger.warning("the API keys stay as they were: %s", error)
            return
        self._stamp = self._last_stamp
        self._take({**self._fixed, **keys})
        logger.info("API keys read again: %d keys", len(self._uses))

    def _take(self, keys: dict[bytes, KeyLimits]) -> None:
        kept = self._uses
        self._uses = {
            digest: kept[digest]
            if digest in kept and kept[digest][0] == limits
            else (limits, KeyUse(limits, self._clock))
            for digest, limits in keys.items()
        }

    @classmethod
    def load(cls, *, file: str | None = None, environment_variable: str | None = None) -> ApiKeys:
        """Keys from a file (one a line, `#` starts a comment line) and from a comma-separated variable.

        Behind a key may stand its limits: `KEY requests_per_s=5 tokens_per_min=200000`. Raises ValueError when a
        source was named and holds no key: a server that was meant to be closed must not come up open.
        """
        keys: list[str] = []
        if environment_variable is not None:
            keys = [key.strip() for key in os.environ.get(environment_variable, "").split(",") if key.strip()]
            if not keys:
                raise ValueError(f"environment variable {environment_variable} holds no API key")
        return cls(keys, file=Path(file) if file is not None else None)


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_is_closed(gateway: GatewayArguments, host: str) -> None:
    """Raises ValueError for a server that other machines reach and that asks for no key."""
    has_keys = gateway.api_keys_file is not None or gateway.api_keys_variable is not None
    if not (has_keys or gateway.open_without_keys or _is_loopback(host)):
        raise ValueError(
            f"{host} is reached from other machines and there are no API keys: "
            "name api_keys_file or api_keys_variable, or say open_without_keys"
        )


class _Bucket:
    """At most `limit` in `period_s` seconds, and as much at once; overdrawn, it refuses until it has filled again."""

    def __init__(self, limit: float | None, period_s: float, clock: Callable[[], float]) -> None:
        self.limit = limit or 0.0
        self._unlimited = limit is None
        self._period_s = period_s
        self._clock = clock
        self._most = max(1.0, self.limit)
        self._left = self._most
        self._at = clock()

    def take(self, amount: float) -> None:
        self._left -= amount

    def wait_s(self) -> float:
        """Seconds until something may be taken."""
        now = self._clock()
        rate = self.limit / self._period_s
        self._left = min(self._most, self._left + (now - self._at) * rate)
        self._at = now
        if self._unlimited or self._left > 0:
            return 0.0
        return (1e-3 - self._left) / rate


def _read(file: Path) -> dict[bytes, KeyLimits]:
    try:
        # Notepad begins a file with a byte-order mark.
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"api_keys_file {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        keys = _all_parsed((number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#"))
    except ValueError as error:
        raise ValueError(f"api_keys_file {file}: {error}") from None
    if not keys:
        raise ValueError(f"api_keys_file {file} holds no key")
    return keys


def _all_parsed(lines: Iterable[tuple[int, str]]) -> dict[bytes, KeyLimits]:
    """Keys by their digests. Raises ValueError with the number of a line, never with what may be a key."""
    keys: dict[bytes, KeyLimits] = {}
    for number, line in lines:
        key, limits = _parsed(number, line)
        if key in keys:
            raise ValueError(f"line {number}: this key stands above too")
        keys[key] = limits
    return keys


def _parsed(line_number: int, line: str) -> tuple[bytes, KeyLimits]:
    key, *rest = line.split()
    if key.startswith(_LIMITS):
        raise ValueError(f"line {line_number}: a limit without a key")
    limits: dict[str, float] = {}
    for word in rest:
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if f"{name}=" not in _LIMITS or name in limits or not 0 < number < float("inf"):
            # Not the word itself: it may be a key with a space in it.
            raise ValueError(
                f"line {line_number}: behind an API key may stand requests_per_s=N and tokens_per_min=N, once each, "
                "with N above 0"
            )
        limits[name] = number
    return _digest(key.encode("utf-8", "surrogateescape")), KeyLimits(**limits)


def _stamp(file: Path | None) -> tuple[int, ...] | None:
    try:
        status = file.stat() if file is not None else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status is not None else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
