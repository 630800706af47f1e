"""The classes of keys by their names: rows hold the name, and whoever reads a key needs the class.

A class of an importable module is imported. One of a script is not: it came to this process by value, with a function
of the job (pickling.py), and is found among the classes that live here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import KeyTypeError

_classes: dict[tuple[str, str], type] = {}
"""Met so far."""


def register_key_class(key_class: type) -> None:
    """Make a class of keys (enum, named tuple, dataclass) known to `decode_key`, which otherwise imports it."""
    _classes[key_class.__module__, key_class.__qualname__] = key_class


def key_class_of(name: str) -> type:
    """A class by "module:Name". KeyTypeError when it cannot be imported."""
    module, _colon, qualname = name.partition(":")
    found = _classes.get((module, qualname))
    if found is None:
        found = _import_class(module, qualname)
        register_key_class(found)
    return found


def _import_class(module: str, qualname: str) -> type:
    target: Any = None
    try:
        target = import_module(module)
        for part in qualname.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        target = _living_class(object, module, qualname)
        if target is None:
            raise KeyTypeError(
                f"state holds keys of the class {module}.{qualname}, which cannot be imported here; "
                "define it at the top of an importable module"
            ) from error
    found: type = target
    return found


def _living_class(base: type, module: str, qualname: str) -> type | None:
    """One that nobody can import, but that a function of the job has brought along by value (pickling.py)."""
    seen, bases = {base}, [base]
    each: type
    while bases:
        for each in type.__subclasses__(bases.pop()):
            if (each.__module__, each.__qualname__) == (module, qualname):
                return each
            if each not in seen:
                seen.add(each)
                bases.append(each)
    return None
