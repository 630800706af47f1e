"""Which options are secret by their name, and how a configuration is shown without them."""

from __future__ import annotations

import re
from collections.abc import Mapping

MASK = "******"
_SECRET = re.compile(
    r"password|passwd|secret|token(?!-file)|credential|api-?key|access-?key|account\.key|key.*access|private-?key|"
    r"\bsas\b|authorization|basic-?auth",
    re.IGNORECASE,
)
"""As in Flink's list of sensitive keys, and what object stores and brokers call theirs."""
_IN_PAIRS = re.compile(r"([^\s,;:=]+)(\s*[:=]\s*)([^\s,;]+)")
"""Values that are maps: user:ann,password:…"""
_IN_URL = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


def is_secret(key: str) -> bool:
    return _SECRET.search(key) is not None


def masked(config: Mapping[str, str]) -> dict[str, str]:
    """Values of secret options, user:password in URLs, and secret entries of maps are not shown."""
    return {
        key: MASK if is_secret(key) else _IN_PAIRS.sub(_pair, _IN_URL.sub(MASK, value)) for key, value in config.items()
    }


def _pair(found: re.Match[str]) -> str:
    name, between, value = found.groups()
    return f"{name}{between}{MASK if is_secret(name) else value}"
