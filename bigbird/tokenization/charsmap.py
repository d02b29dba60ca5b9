"""SentencePiece's precompiled character map, applied as SentencePiece applies it.

A charsmap holds rules "these characters become those" (for example NFKC). SentencePiece takes the longest rule at
each position. The `Precompiled` normalizer of the tokenizers library works by grapheme and takes the shortest, so
it loses marks in decomposed Vietnamese, Korean or Greek, and in half-width kana (tokenizers issues 2116 and 2334).
The tokenizer therefore runs the map here and leaves everything after it to that library.

Knows the binary layout of the map and how positions move; knows nothing of vocabularies or files.
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bigbird.errors import CheckpointError

_LONGEST_KEY_BYTES = 256  # the rules of SentencePiece's own maps stay under 20: this only stops a damaged trie


@dataclass(frozen=True, kw_only=True)
class NormalizedText:
    """A text after the map, and where each of its characters came from.

    text: the mapped text.
    edits: one (start, end, original_start, original_end) for each rule applied, in order; start and end are in `text`.
    """

    text: str
    edits: tuple[tuple[int, int, int, int], ...]

    def original_offsets(self, offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Character ranges of `text` as ranges of the original; what a rule made together stays together."""
        if not self.edits:
            return list(offsets)
        starts = [edit[0] for edit in self.edits]
        return [(self._start(starts, start), self._end(starts, start, end)) for start, end in offsets]

    def _start(self, starts: list[int], position: int) -> int:
        index = bisect_right(starts, position) - 1
        if index < 0:
            return position
        _, end, original_start, original_end = self.edits[index]
        return original_start if position < end else original_end + position - end

    def _end(self, starts: list[int], start: int, end: int) -> int:
        if end <= start:
            return self._start(starts, end)
        last = end - 1
        index = bisect_right(starts, last) - 1
        if index < 0:
            return end
        _, edit_end, _, original_end = self.edits[index]
        return original_end if last < edit_end else original_end + end - edit_end


class Charsmap:
    """The rules of one precompiled map.

    blob: the bytes of `normalizer_spec.precompiled_charsmap`: the length of a double-array trie (uint32, little
        endian), the trie, and the replacement strings, each ended by a NUL.
    protected: strings left as they are wherever they stand in a text (the special tokens).
    Raises CheckpointError when the bytes have another layout.
    """

    def __init__(self, blob: bytes, protected: Iterable[str] = ()) -> None:
        self._rules = _read_rules(blob)
        self._longest = max(map(len, self._rules), default=0)
        kept = sorted({text for text in protected if text}, key=len, reverse=True)
        self._kept = re.compile("|".join(map(re.escape, kept)) or r"(?!)")
        # One class of characters is what `re` scans fastest: a rule is seen at its only character or at its second.
        seen = {key[0] if len(key) == 1 else key[1] for key in self._rules}
        # Beyond the basic plane `re` compares one by one, so all of it is let through to the look-up.
        basic = "".join(re.escape(character) for character in sorted(seen) if character < "\U00010000")
        self._seen = re.compile(f"[{basic}\U00010000-\U0010ffff]")

    def normalize(self, text: str) -> NormalizedText:
        """The text with the longest rule applied at each position, from left to right."""
        parts: list[str] = []
        edits: list[tuple[int, int, int, int]] = []
        begin = done = written = 0  # begin of the stretch; characters read, and written, so far
        stretches = [(match.start(), match.end()) for match in self._kept.finditer(text)]
        for kept_start, kept_end in [*stretches, (len(text), len(text))]:
            for match in self._seen.finditer(text, begin, kept_start):
                seen = match.start()
                for start in (seen - 1, seen):
                    if start < max(begin, done):
                        continue
                    end = self._rule_end(text, start, kept_start)
                    if end > start:
                        replacement = self._rules[text[start:end]]
                        parts += (text[done:start], replacement)
                        written += start - done + len(replacement)
                        edits.append((written - len(replacement), written, start, end))
                        done = end
                        break
            begin = kept_end
        parts.append(text[done:])
        return NormalizedText(text="".join(parts), edits=tuple(edits))

    def _rule_end(self, text: str, start: int, limit: int) -> int:
        """Where the longest rule that begins at `start` ends; `start` itself when there is none."""
        for end in range(min(start + self._longest, limit), start, -1):
            if text[start:end] in self._rules:
                return end
        return start


@lru_cache(maxsize=1)  # the published maps have 200,000 rules, and a process reads one of them several times
def _read_rules(blob: bytes) -> dict[str, str]:
    """Every rule of the map: walks the double-array trie (the layout of darts-clone) from its root."""
    if len(blob) < 4:
        raise CheckpointError(f"character map: {len(blob)} bytes, expected at least 4")
    (trie_bytes,) = struct.unpack_from("<I", blob)
    if trie_bytes % 4 or not 0 < trie_bytes <= len(blob) - 4:
        raise CheckpointError(f"character map: a trie of {trie_bytes} bytes does not fit in {len(blob)} bytes")
    units = np.frombuffer(blob, dtype="<u4", count=trie_bytes // 4, offset=4).astype(np.int64)
    strings = blob[4 + trie_bytes :]
    # A child labelled L of a node whose children start at B lies at B ^ L; read backwards, each unit names its B.
    places = np.arange(len(units))
    labels = units & 0x800000FF
    below = (places ^ (units >> 10 << ((units & 0x200) >> 6))).tolist()
    ends_rule = (units >> 8 & 1).astype(bool).tolist()
    children: dict[int, list[int]] = {}
    for place, begin in zip(places.tolist(), (places ^ labels).tolist(), strict=True):
        if place != begin and begin < len(units):
            children.setdefault(begin, []).append(place)
    rules: dict[str, str] = {}
    waiting = [(below[0], b"")]
    try:
        while waiting:
            begin, prefix = waiting.pop()
            for place in children.get(begin, ()):
                key = prefix + bytes((place ^ begin,))
                if len(key) > _LONGEST_KEY_BYTES:
                    raise ValueError(f"a rule of more than {_LONGEST_KEY_BYTES} bytes")
                if ends_rule[place]:  # its value lies at the child labelled 0
                    value = int(units[below[place]]) & 0x7FFFFFFF
                    rules[key.decode()] = strings[value : strings.index(b"\0", value)].decode()
                waiting.append((below[place], key))
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"character map: damaged ({error})") from error
    return rules
