"""Many predictions at once: questions, heads that share a trunk, demons, policies that nobody follows."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
