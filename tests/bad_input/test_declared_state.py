"""Declarations of state that cannot be, alone or with what is restored: one sentence that names operator and state."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.commands import penstock_in

DECLARED = """
import os
from collections.abc import Iterator
import penstock as ps
from penstock.testing.lists import ListSource

class Declares(ps.KeyedProcessFunction):
    def open(self, context):
        get = {"value": context.get_state, "list": context.get_list_state, "map": context.get_map_state}
        [%s]

    def process_element(self, value: int, context) -> Iterator[int]:
        if value == 150 and not os.path.exists("mended"):
            raise ValueError("bad number")
        yield value

def one(value: int) -> int:
    return 1

env = ps.StreamExecutionEnvironment().enable_checkpointing("10ms").set_restart_strategy("none")
numbers = env.from_source(ListSource(list(range(300)), batch_rows=1, pause_ms=5, record_type=int), name="n", uid="n")
numbers.key_by(one).process(Declares(), name="declares").uid("declares").print()
env.execute("declared")
"""


def run(directory: Path, opening: str, *flags: str) -> tuple[int, str, list[str]]:
    """The script with these declarations: exit code, standard output, and the errors told."""
    (directory / "script.py").write_text(DECLARED % opening)
    code, out, err = penstock_in(directory, "run", "script.py", *flags)
    return code, out, [line for line in err.splitlines() if line.startswith("error: ")]


VALUE, LIST = 'get["value"](ps.ValueStateDescriptor("seen", int))', 'get["list"](ps.ListStateDescriptor("seen", int))'
MAP = 'get["map"](ps.MapStateDescriptor("seen", {}, int))'


@pytest.mark.parametrize(
    ("opening", "complaint"),
    [
        ('ps.StateTtlConfig("-1h")', "StateTtlConfig: ttl is a duration like '1h': the duration '-1h' is negative"),
        ("ps.StateTtlConfig(-5)", "StateTtlConfig: ttl is a duration like '1h': the duration -5 is negative"),
        ("ps.StateTtlConfig(0)", "StateTtlConfig: a TTL is at least 1 ms, not 0"),
        (f"{VALUE}, {VALUE.replace('int', 'str')}", "operator 'declares' declares its state 'seen' twice: "),
        (f"{VALUE}, {LIST}", "operator 'declares' declares its state 'seen' twice: "),
    ],
)
def test_impossible_declarations_of_state(tmp_path: Path, opening: str, complaint: str) -> None:
    code, _, (sentence,) = run(tmp_path, opening)
    assert code == 1
    assert sentence.startswith("error: operator 'declares', subtask 0: ")
    assert complaint in sentence


def test_state_that_is_declared_as_another_kind(tmp_path: Path) -> None:
    """Before there is another attempt, or another job."""
    assert run(tmp_path, MAP.format("int"))[0] == 1
    left = sorted(tmp_path.rglob(".penstock/**/log/*"))
    assert left
    where = "state 'seen' of operator 'declares'"
    for opening, complaint in (
        (LIST, f"{where} does not fit what was restored: it was a map state and is now declared as a list state"),
        (VALUE, f"{where} does not fit what was restored: it was a map state and is now declared as a value state"),
        (MAP.format("int").replace("int)", "str)"), f"{where} does not fit what was restored: the value was int"),
    ):
        for path in ("latest", str(max(tmp_path.glob(".penstock/checkpoints/*/chk-*")))):
            code, _, (error,) = run(tmp_path, opening, "-s", path)
            assert code == 1
            assert complaint in error
    assert sorted(tmp_path.rglob(".penstock/**/log/*")) == left
    (tmp_path / "mended").touch()
    assert run(tmp_path, MAP.format("int"), "-s", "latest")[0] == 0
