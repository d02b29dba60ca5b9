"""What the commands share: how they are named, what they refuse, and the one form of their messages.

    bigbird-score: --task is required (see bigbird-score --help)

A message is one line on the error stream, with the command's name before it.
"""

import argparse
import difflib
import signal
import sys
from collections.abc import Sequence

DONE, STOPPED, REFUSED, DONE_WITH_ERRORS = 0, 1, 2, 3
GO_ON = "start it again with the same command to continue"


class Parser(argparse.ArgumentParser):
    """argparse's, where an option is written out in full and help keeps its lines.

    An unknown option is refused by name, with the nearest known one; so is a value that is empty or no text.
    """

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        kept = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=kept)

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """The arguments; what is not known ends the process with status 2."""
        for given in sys.argv[1:] if args is None else args:
            if not _is_text(given):
                self.error(f"{given!r} is no text: expected UTF-8 without NUL")
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], list(self._option_string_actions), n=1)
            self.error(f"{unknown[0]} is not known" + (f"; did you mean {near[0]}?" if near else ""))
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if value != action.default and "" in (value if isinstance(value, list) else [value]):
                self.error(f"{'/'.join(action.option_strings) or action.metavar} is empty")
        return parsed

    def error(self, message: str) -> None:  # type: ignore[override]
        """End the process with status 2 and one line."""
        self.exit(REFUSED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _is_text(given: str) -> bool:
    """Whether it can stand in a file: bytes of a command line that are no UTF-8 reach Python as lone surrogates."""
    return "\0" not in given and given.encode(errors="ignore").decode() == given


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 file, 1,200 files."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def say(prog: str, message: object) -> None:
    """One message of a command, in one line."""
    print(f"{prog}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def say_stopped(prog: str, error: KeyboardInterrupt | SystemExit) -> int:
    """Say that Ctrl-C or SIGTERM ended a command; returns its exit status. Any other SystemExit is raised again.

    Ray makes a SystemExit of SIGTERM, by which clusters end jobs.
    """
    if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
        raise error
    say(prog, f"stopped; {GO_ON}")
    return STOPPED
