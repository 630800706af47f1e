"""What the command line hands to the script that it runs: the flags, and where reports go."""

from __future__ import annotations

from collections.abc import Mapping

flags: Mapping[str, object] = {}
"""Options set by `penstock run`'s flags; empty when the script runs by itself."""
