"""Pickle for what users define: functions and classes of a script travel by value (cloudpickle)."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any

import cloudpickle

_MSGSPEC_CACHE = "__msgspec_cache__"
"""What msgspec remembers on a class it has encoded. It cannot be pickled, and msgspec makes it anew."""

_SENTINELS = {id(dataclasses.MISSING): "MISSING", id(dataclasses.KW_ONLY): "KW_ONLY"}
"""Fields of a dataclass hold these and are compared with them by identity: a copy would count as a default."""

loads = pickle.loads


def dumps(value: Any) -> bytes:
    """Protocol 5. Raises what the value's own reduction raises, TypeError or pickle.PicklingError otherwise."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type) and _MSGSPEC_CACHE in value.__dict__:
            delattr(value, _MSGSPEC_CACHE)
        if id(value) in _SENTINELS:
            return _SENTINELS[id(value)]
        return super().reducer_override(value)
