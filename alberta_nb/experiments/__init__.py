"""Many runs: sweeps over settings and seeds, errors by episode."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
