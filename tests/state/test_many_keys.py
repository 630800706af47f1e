"""What windows do with the values of many keys at once, against dicts: with a cache that holds two cells, amid
barriers whose programs run later, and after restores."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from penstock.state.descriptors import ValueStateDescriptor
from penstock.state.rows.keyed_backend import BackendOptions

REPLACED = ValueStateDescriptor[int]("replaced", int)
CHANGED = ValueStateDescriptor[list[int]]("changed", list[int])
PICKLED = ValueStateDescriptor[list[int]]("pickled")
NAMESPACES = (0, -5, 60_000)
Values = dict[tuple[int, Any], Any]


def add(record: int, value: int) -> int:
    return value + record


def added(record: int, value: list[int]) -> list[int]:
    value.append(record)
    return value


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "replaced": (REPLACED, int, add), "changed": (CHANGED, list, added), "pickled": (PICKLED, list, added),
}  # fmt: skip


def copied(values: Values) -> Values:
    return {place: list(value) if isinstance(value, list) else value for place, value in values.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cells", [2, 1_000])
def test_values_of_many_keys(rig: Any, kind: str, cells: int) -> None:
    random = Random(f"{kind} {cells}")
    descriptor, create, add_to = KINDS[kind]
    options = BackendOptions(cells, 4, 8 << 20, 8 << 20)
    keys = list(range(12)) if cells == 2 else [f"key {n}" for n in range(12)]
    backend, expected = rig.open(options=options), {}
    frozen: list[tuple[Any, Values]] = []
    for step in range(250):
        state, namespace = backend.value_state(descriptor), random.choice(NAMESPACES)
        backend.set_namespace(namespace)
        some = random.choices(keys, k=random.randrange(8))
        match random.choice(["accumulate", "accumulate", "clear", "look", "between", "barrier", "finish", "restore"]):
            case "accumulate":
                numbers = range(step, step + len(some))
                new = [at for at, key in enumerate(some) if (namespace, key) not in expected and key not in some[:at]]
                assert state.accumulate(some, numbers, create, add_to) == new
                for key, number in zip(some, numbers, strict=True):
                    expected[namespace, key] = add_to(number, expected.get((namespace, key)) or create())
            case "clear":
                state.clear_all(some)
                for key in some:
                    expected.pop((namespace, key), None)
            case "look":
                assert state.values_of(some) == [expected.get((namespace, key)) for key in some]
            case "between":
                backend.between_batches()
            case "barrier":
                if len(frozen) < 3:
                    frozen.append((backend.snapshot(step), copied(expected)))
            case "finish" | "restore" if frozen:
                program, then = frozen.pop(0)
                handles = rig.finish(program)
                if step % 2:
                    backend.close()
                    backend, expected, frozen = rig.open(handles, options=options), then, []
    for namespace in NAMESPACES:
        backend.set_namespace(namespace)
        assert backend.value_state(descriptor).values_of(keys) == [expected.get((namespace, key)) for key in keys]
