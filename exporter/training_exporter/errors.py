"""Errors that more than one part has to know."""

from __future__ import annotations


class SourceUnavailable(Exception):
    """A source has nothing to give at present and has itself said why; no traceback is of use to anybody."""
