"""The three commands as functions: a table in, a report out."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
