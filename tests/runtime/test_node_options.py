"""What a node decides for itself."""

from __future__ import annotations

from penstock.runtime.configuration.config import Configuration
from penstock.runtime.configuration.node_options import node_environment, with_node_options


def test_a_node_has_its_own_directories_and_certificate_and_nothing_else_of_its_own() -> None:
    node = Configuration({"io.tmp.dirs": "/disk", "security.ssl.internal.key": "node.key", "rest.port": 1})
    cluster = {"io.tmp.dirs": "/tmp", "rest.port": "8081", "cluster.id": "c"}
    assert with_node_options(cluster, node_environment(node)) == {
        "io.tmp.dirs": "/disk",
        "rest.port": "8081",
        "cluster.id": "c",
        "security.ssl.internal.key": "node.key",
    }


def test_without_options_of_its_own_a_node_has_those_of_the_cluster() -> None:
    assert with_node_options({"io.tmp.dirs": "/tmp"}, {}) == {"io.tmp.dirs": "/tmp"}
    assert with_node_options({"io.tmp.dirs": "/tmp"}, node_environment(Configuration())) == {"io.tmp.dirs": "/tmp"}
