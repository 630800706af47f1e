"""Pickle for what users define: functions and classes of a script travel by value (cloudpickle)."""

from __future__ import annotations

import dataclasses
import inspect
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
        if isinstance(value, type):
            if _MSGSPEC_CACHE in value.__dict__:
                delattr(value, _MSGSPEC_CACHE)
            if value.__module__ == "__main__":
                _explain_annotations(value)
        if id(value) in _SENTINELS:
            return _SENTINELS[id(value)]
        return super().reducer_override(value)


def _explain_annotations(script_class: type) -> None:
    """A class of the script arrives in processes where its module is another one. Annotations that are text (`from
    __future__ import annotations`) mean nothing there, so they are made what they stand for, as far as that can be
    found here: whoever unpickles the class sees the types of its fields."""
    annotations = inspect.get_annotations(script_class)
    if any(isinstance(annotation, str) for annotation in annotations.values()):
        try:
            script_class.__annotations__ = inspect.get_annotations(script_class, eval_str=True)
        except Exception:  # a name that exists for type checkers only: the type stays unknown, as it was
            return
