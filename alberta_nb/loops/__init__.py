"""A life: one loop for every learner and stream, once or for many seeds, and one event at a time."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
