"""Classes of a script, which travel by value, are afterwards what they were before."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from penstock.state.pickling import dumps, loads

SCRIPT = """
from dataclasses import dataclass, field, KW_ONLY

@dataclass
class Click:
    user: str
    page: str
    _: KW_ONLY
    tags: list[str] = field(default_factory=list)
"""


def travelled() -> Any:
    """As from a script: __main__ is pickled by value."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SCRIPT, "script", "exec", dont_inherit=True), names)
    return loads(dumps(names["Click"]))


def test_a_field_without_default_has_none_afterwards() -> None:
    fields = {field.name: field for field in dataclasses.fields(travelled())}
    assert list(fields) == ["user", "page", "tags"]
    assert fields["page"].default is dataclasses.MISSING
    assert fields["page"].default_factory is dataclasses.MISSING
    assert fields["tags"].kw_only
    assert fields["tags"].default_factory is list


def test_a_field_that_is_missing_in_the_input_is_noticed() -> None:
    decoder = msgspec.json.Decoder(travelled())
    assert decoder.decode(b'{"user":"a","page":"b"}').tags == []
    with pytest.raises(msgspec.ValidationError, match="missing required field `page`"):
        decoder.decode(b'{"user":"a"}')
