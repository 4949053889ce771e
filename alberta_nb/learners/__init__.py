"""What learns: linear, temporal-difference and network learners, banks of them, baselines, diagnostics."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
