"""Classes of a script, which travel by value, are afterwards what they were before."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from penstock.state.serialization.pickling import dumps, loads

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


FUTURE = """
from __future__ import annotations
from dataclasses import dataclass
from datetime import datetime

@dataclass(frozen=True)
class Flight:
    origin: str
    left: datetime | None

@dataclass
class Leg:
    flights: list[Flight]
"""
ELSEWHERE = """
import pickle, sys
from penstock.state.serialization.serializers import serializer_for
kind = pickle.loads(sys.stdin.buffer.read())
serializer = serializer_for(kind)
print(serializer.generic, serializer.decode(serializer.encode(kind([]))) == kind([]))
"""


def test_annotations_that_are_text_mean_the_same_in_another_process() -> None:
    """State of such a class is typed there, and not pickled with the class in every value."""
    dump = "from penstock.state.serialization.pickling import dumps\nsys.stdout.buffer.write(dumps(Leg))"
    script = f"import sys\n{FUTURE}\n{dump}"
    script = script.replace("import sys\n", "", 1).replace("from __future__ import annotations\n", "")
    script = f"from __future__ import annotations\nimport sys\n{script}"
    pickled = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    told = subprocess.run([sys.executable, "-c", ELSEWHERE], input=pickled, capture_output=True, check=True).stdout
    assert told.decode().split() == ["False", "True"]


def test_an_annotation_that_nothing_explains_stays_text() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("class Odd:\n    field: 'Missing'\n", "script", "exec", dont_inherit=True), names)
    assert loads(dumps(names["Odd"])).__annotations__ == {"field": "Missing"}
