from .episodes import EpisodeErrors as EpisodeErrors, episode_sweep as episode_sweep
from .sweep import sweep_table as sweep_table
