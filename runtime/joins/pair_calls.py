"""How a function of pairs is called for one record and its partners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..functions import callable_of
from ..operators.user_code import Collector
from .functions import LEFT, several

if TYPE_CHECKING:
    from .interval_join import AtHand, Entry

Call = Callable[[Collector, int, Any, int, "Sequence[Entry]", bool], None]
"""For a record of a side and its time, and its partners: results go to the collector. The last: they may hold what
can change, and others hold as well."""


class PairCall:
    """A function, and what it gives of a pair: one result, several, or several with a context."""

    def __init__(self, function: Any, *, flat: bool = False, with_context: bool = False) -> None:
        self.function = function
        self.flat = flat
        self.with_context = with_context

    def bound(self, at_hand: AtHand) -> Call:
        """The function was opened."""
        if self.with_context:
            return _with_context(callable_of(self.function, "process_element"), at_hand)
        join = callable_of(self.function, "join")
        return _several(join) if self.flat else _one(join)


def _one(join: Callable[[Any, Any], Any]) -> Call:
    def call(collector: Collector, side: int, row: Any, at: int, partners: Sequence[Entry], apart: bool) -> None:
        if side == LEFT:
            results = [join(row, partner) for _, partner, _ in partners]
        else:
            results = [join(partner, row) for _, partner, _ in partners]
        if apart:
            for result, entry in zip(results, partners, strict=True):
                collector.take((result,), max(at, entry[0]), apart=True)
        else:
            collector.rows += results
            collector.timestamps += [max(entry[0], at) for entry in partners]

    return call


def _several(join: Callable[[Any, Any], Any]) -> Call:
    def call(collector: Collector, side: int, row: Any, at: int, partners: Sequence[Entry], apart: bool) -> None:
        for partner_at, partner, _ in partners:
            produced = join(row, partner) if side == LEFT else join(partner, row)
            collector.take(several(produced), max(at, partner_at), apart=apart)

    return call


def _with_context(process: Callable[[Any, Any, Any], Any], at_hand: AtHand) -> Call:
    def call(collector: Collector, side: int, row: Any, at: int, partners: Sequence[Entry], apart: bool) -> None:
        for partner_at, partner, _ in partners:
            at_hand.at = max(at, partner_at)
            other_at = partner_at if partner is not None else None
            at_hand.times = (at, other_at) if side == LEFT else (other_at, at)
            produced = process(row, partner, at_hand) if side == LEFT else process(partner, row, at_hand)
            if produced is not None:
                collector.take(produced, at_hand.at, apart=apart)

    return call
