"""The prefixes of many keys are those of each; their order is that of the rows."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.state.rows.row_keys import (
    cell_prefix,
    cell_prefixes,
    encode_word,
    group_of,
    key_of,
    namespace_of,
    row_order,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
KEYS = st.one_of(st.lists(INT64, min_size=1), st.lists(st.integers(), min_size=1), st.lists(st.text(), min_size=1))
NAMESPACES = INT64.map(encode_word)
GROUPS = st.sampled_from([1, 100, 128, 1 << 15])


@given(KEYS, st.integers(0, 65_535), st.just(b"") | NAMESPACES, GROUPS)
def test_prefixes_of_many_keys_are_those_of_each(keys: list[Any], state: int, namespace: bytes, groups: int) -> None:
    assert cell_prefixes(keys, state, namespace, groups) == [cell_prefix(key, state, namespace, groups) for key in keys]


@given(INT64, st.integers(0, 65_535), INT64)
def test_a_prefix_tells_its_key_and_namespace(key: int, state: int, namespace: int) -> None:
    (prefix,) = cell_prefixes([key], state, encode_word(namespace), 128)
    assert (key_of(prefix), namespace_of(prefix)) == (key, namespace)


@given(st.lists(INT64, unique=True, min_size=1), GROUPS)
def test_ints_are_put_in_the_order_of_their_rows(keys: list[int], groups: int) -> None:
    prefixes = cell_prefixes(keys, 1, encode_word(0), groups)
    assert [prefixes[place] for place in row_order(keys, groups)] == sorted(prefixes)


@given(KEYS, GROUPS)
def test_rows_of_a_key_group_are_put_together(keys: list[Any], groups: int) -> None:
    prefixes = cell_prefixes(keys, 1, b"", groups)
    places = row_order(keys, groups).tolist()
    assert sorted(places) == list(range(len(keys)))
    in_groups = [group_of(prefixes[place]) for place in places]
    assert in_groups == sorted(in_groups)
