"""Errors of the export folder."""

from __future__ import annotations

from devices.errors import TinyNasError


class ExportError(TinyNasError):
    """A model cannot be read, planned, converted or compiled."""


class ModelFormatError(ExportError):
    """A file is not a TensorFlow Lite model, or it is damaged."""


class UnsupportedOperatorError(ExportError):
    """A model uses an operator, or a form of one, that has no kernel here."""


class PlanError(ExportError):
    """A memory plan breaks one of its own rules: a bug in the planner, never the user's fault."""
