"""Errors of the search."""

from __future__ import annotations

from devices.errors import TinyNasError


class SearchError(TinyNasError):
    """A study, a data set, a search space or a constraint is not as it should be."""
