"""Which options are a job's own: all but those that say how it gets to a cluster."""

from __future__ import annotations

from ..runtime.configuration import cluster_options
from ..runtime.configuration.config import Configuration

NOT_OF_A_JOB = frozenset({cluster_options.TARGET.key, cluster_options.ADDRESS.key})


def job_options(config: Configuration) -> dict[str, str]:
    """What travels with the job."""
    return {key: value for key, value in config.to_dict().items() if key not in NOT_OF_A_JOB}
