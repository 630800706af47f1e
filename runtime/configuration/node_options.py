"""Options in which a node may differ from its cluster: where its files are, how it is reached, its certificate.

The options of a cluster come from the one who started it. A node that joins has its own of these, from its own
configuration: `join` puts them into the environment of the node's Ray, whose processes inherit it, and its task manager
lets them win. None of them is a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from .cluster_options import (
    DATA_HOST,
    LOG_LEVEL,
    TLS_AUTHORITY,
    TLS_CERTIFICATE,
    TLS_KEY,
    WARM_SLOTS,
    WORK_DIRECTORY,
)
from .config import Configuration

VARIABLE = "PENSTOCK_NODE_OPTIONS"
OPTIONS = (WORK_DIRECTORY, DATA_HOST, WARM_SLOTS, LOG_LEVEL, TLS_CERTIFICATE, TLS_KEY, TLS_AUTHORITY)


def node_environment(config: Configuration) -> dict[str, str]:
    """What is set of them, for the environment of a node that joins."""
    given = config.to_dict()
    own = {option.key: given[option.key] for option in OPTIONS if option.key in given}
    return {VARIABLE: msgspec.json.encode(own).decode()}


def with_node_options(config: dict[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The cluster's options, as they are on this node."""
    own = msgspec.json.decode(environ.get(VARIABLE, "{}"), type=dict[str, str])
    return {**config, **own}
