"""The error tree that every folder shares.

Each message says what happened, to which thing, and what to do about it; the command line prints it as it is and
exits with 1, so nothing here may need a traceback to be understood.
"""

from __future__ import annotations


class TinyNasError(Exception):
    """The base of every error that tinynas raises on purpose."""


class DeviceError(TinyNasError):
    """A device profile, a board or a tool that talks to one is not as it should be."""
