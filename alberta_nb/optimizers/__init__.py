"""How a weight moves: step sizes, traces and bounds."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
