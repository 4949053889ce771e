"""Where experience comes from: worlds, chains, arrays, tables, environments."""

from alberta_nb import _face

__all__, __getattr__, __dir__ = _face(__name__)
