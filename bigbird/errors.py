"""Every error the library raises on purpose.

    BigBirdError
    ├── CheckpointError      a directory or hub id that cannot be loaded as asked
    ├── CompileError         also a RuntimeError: what runs compiled on a GPU cannot be compiled there
    ├── ConfigError          also a ValueError: a configuration that contradicts itself
    └── InputError           also a ValueError: an example or an option beyond its limit

Whoever sits above (a job, a server) maps these to exit statuses and HTTP codes; nothing here knows of either.
"""


class BigBirdError(Exception):
    """Base of every deliberate error."""


class CheckpointError(BigBirdError):
    """A checkpoint is missing, incomplete, misshapen, or of another kind than asked for."""


class CompileError(BigBirdError, RuntimeError):
    """What must run compiled cannot be: the compiler failed, is missing or switched off, or compiled too often."""


class ConfigError(BigBirdError, ValueError):
    """A configuration value is outside its range, or contradicts another."""


class InputError(BigBirdError, ValueError):
    """An input or an option is outside its limit; the message names the item, the limit and the value."""
