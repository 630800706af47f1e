"""Card payments as they come, and what is suspicious of them: five rules, each a process function per card.

  too many          more than 10 payments within 10 minutes
  too fast          from the place of one payment to that of the next one at more than 1,000 km/h
  too much          more than 10 times the mean of the card's last 30 days
  small then large  a large payment right after a small one, which tries the card, before a timer has run out
  score             a model that is loaded when the function is opened says so

Payments come out of order, up to a bound; every rule sees those of a card in the order in which they were made. State
that no payment can ask for any more is removed by timers. What comes later than the bound goes to `late`.

    penstock run examples/fraud_detection.py --local
    penstock run examples/fraud_detection.py --local -- --payments 100000 --out alerts
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import penstock as ps
from penstock.connectors.files import FileSink, FileSource
from penstock.connectors.formats import Json

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
MOST_PAYMENTS, MANY_WITHIN_MS = 10, 10 * MINUTE_MS
FASTEST_KMH, EARTH_KM = 1_000, 6_371.0
ANYWHERE_MS = 21 * HOUR_MS
"""So long after a payment the next one may be at any place of the earth, and is not too fast."""
TIMES_THE_MEAN, MEAN_DAYS, FEWEST_FOR_A_MEAN = 10, 30, 5
SMALL_CENTS, LARGE_CENTS, SOON_MS = 100, 50_000, MINUTE_MS
MODEL = Path(__file__).with_name("fraud_model.json")


@dataclass(frozen=True)
class Payment:
    id: int
    card: str
    at: int
    cents: int
    latitude: float
    longitude: float
    category: str


@dataclass(frozen=True)
class Alert:
    rule: str
    card: str
    payment: int
    at: int
    value: float
    """What the rule has found: a count, km/h, times the mean, ms between the two, a score."""


late = ps.OutputTag[Payment]("late", Payment)


class Rule(ps.KeyedProcessFunction):
    """Keeps payments until the watermark has passed them, then checks them in order: by time, then by id."""

    name: str

    def open(self, context: ps.RuntimeContext) -> None:
        self.waiting = context.get_map_state(ps.MapStateDescriptor[int, list[Payment]]("waiting", int, list[Payment]))

    def process_element(self, payment: Payment, context: Any) -> Iterator[Any]:
        timers = context.timer_service()
        if payment.at <= timers.current_watermark():
            yield late, payment
            return
        self.waiting.put(payment.at, [*(self.waiting.get(payment.at) or []), payment])
        timers.register_event_time_timer(payment.at)

    def on_timer(self, timestamp: int, context: Any) -> Iterator[Alert]:
        self.forget(timestamp)
        for payment in sorted(self.waiting.get(timestamp) or [], key=lambda each: each.id):
            value = self.check(payment, context.timer_service())
            if value is not None:
                yield Alert(self.name, payment.card, payment.id, payment.at, value)
        self.waiting.remove(timestamp)

    def check(self, payment: Payment, timers: Any) -> float | None:
        """The value of an alert, None if there is nothing to it."""
        raise NotImplementedError

    def forget(self, now: int) -> None:
        """Remove from state what was needed until now. Called when timers fire that `check` registers."""


class TooMany(Rule):
    """Remembers the times of the last payments."""

    name = "too many"

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.recent = context.get_state(ps.ValueStateDescriptor[list[int]]("recent", list[int]))

    def check(self, payment: Payment, timers: Any) -> float | None:
        recent = [*(self.recent.value() or []), payment.at]
        self.recent.update(recent)
        timers.register_event_time_timer(payment.at + MANY_WITHIN_MS)
        return len(recent) if len(recent) > MOST_PAYMENTS else None

    def forget(self, now: int) -> None:
        recent = [at for at in self.recent.value() or [] if at + MANY_WITHIN_MS > now]
        self.recent.update(recent) if recent else self.recent.clear()


class TooFast(Rule):
    """Remembers where the card was last."""

    name = "too fast"

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.last = context.get_state(ps.ValueStateDescriptor[Payment]("last", Payment))

    def check(self, payment: Payment, timers: Any) -> float | None:
        last = self.last.value()
        self.last.update(payment)
        timers.register_event_time_timer(payment.at + ANYWHERE_MS)
        if last is None:
            return None
        kmh = kilometres(last, payment) / (max(payment.at - last.at, SECOND_MS) / HOUR_MS)
        return kmh if kmh > FASTEST_KMH else None

    def forget(self, now: int) -> None:
        last = self.last.value()
        if last is not None and last.at + ANYWHERE_MS <= now:
            self.last.clear()


def kilometres(one: Payment, other: Payment) -> float:
    """Along the surface of the earth (haversine formula)."""
    a, b = math.radians(one.latitude), math.radians(other.latitude)
    across = math.radians(other.longitude - one.longitude)
    h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(across / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(h))


class TooMuch(Rule):
    """Remembers of each of the last 30 days how many payments there were, and their sum."""

    name = "too much"

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        days = ps.MapStateDescriptor[int, tuple[int, int]]("days", int, tuple[int, int])
        self.days = context.get_map_state(days)

    def check(self, payment: Payment, timers: Any) -> float | None:
        day = payment.at // DAY_MS
        totals = list(self.days.values())
        count, total = sum(n for n, _ in totals), sum(cents for _, cents in totals)
        n, cents = self.days.get(day) or (0, 0)
        self.days.put(day, (n + 1, cents + payment.cents))
        timers.register_event_time_timer((day + MEAN_DAYS) * DAY_MS)
        if count < FEWEST_FOR_A_MEAN or payment.cents * count <= TIMES_THE_MEAN * total:
            return None
        return payment.cents * count / total

    def forget(self, now: int) -> None:
        for day, _ in list(self.days.items()):
            if (day + MEAN_DAYS) * DAY_MS <= now:
                self.days.remove(day)


class SmallThenLarge(Rule):
    """Remembers when a small payment was made, until the next payment or the timer."""

    name = "small then large"

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.small_at = context.get_state(ps.ValueStateDescriptor[int]("small at", int))

    def check(self, payment: Payment, timers: Any) -> float | None:
        small_at = self.small_at.value()
        if payment.cents <= SMALL_CENTS:
            self.small_at.update(payment.at)
            timers.register_event_time_timer(payment.at + SOON_MS)
        else:
            self.small_at.clear()
        return payment.at - small_at if small_at is not None and payment.cents >= LARGE_CENTS else None

    def forget(self, now: int) -> None:
        small_at = self.small_at.value()
        if small_at is not None and small_at + SOON_MS <= now:
            self.small_at.clear()


class Scored(Rule):
    """A logistic model in a file, which every subtask loads once."""

    name = "score"

    def __init__(self, model: Path) -> None:
        self.path = str(model)

    def open(self, context: ps.RuntimeContext) -> None:
        super().open(context)
        self.model = json.loads(Path(self.path).read_text(encoding="utf-8"))

    def check(self, payment: Payment, timers: Any) -> float | None:
        score = scored(self.model, payment)
        return score if score > self.model["threshold"] else None


def scored(model: dict[str, Any], payment: Payment) -> float:
    """Between 0 and 1."""
    night = payment.at // HOUR_MS % 24 < 6
    logit = model["bias"] + model["log_amount"] * math.log10(max(1, payment.cents)) + model["night"] * night
    return 1 / (1 + math.exp(-logit - model["categories"].get(payment.category, 0.0)))


# payments to try it on ---------------------------------------------------------------------------------------------

CITIES = ((52.52, 13.40), (48.86, 2.35), (40.71, -74.01), (35.68, 139.69), (-33.87, 151.21), (-1.29, 36.82))
CATEGORIES = ("groceries", "fuel", "electronics", "travel", "casino")
START_MS = 1_735_689_600_000
DISORDER_MS = 4 * MINUTE_MS


def payments(count: int, seed: int = 1) -> list[Payment]:
    """About `count` of them, in the order in which they come, over 40 days: ordinary ones, and some of each fraud."""
    draw = random.Random(seed)
    cards = [f"card-{n}" for n in range(max(1, count // 100))]
    home = {card: draw.choice(CITIES) for card in cards}
    made: list[Payment] = []

    def pay(card: str, at: int, cents: int, place: tuple[float, float], category: str = "groceries") -> None:
        near = [degrees + draw.uniform(-0.01, 0.01) for degrees in place]
        made.append(Payment(len(made), card, at, cents, near[0], near[1], category))

    while len(made) < count:
        card = draw.choice(cards)
        at, place = START_MS + draw.randrange(40 * DAY_MS), home[card]
        pay(card, at, draw.randint(300, 9_000), place, draw.choice(CATEGORIES[:4]))
        fate = draw.random()
        if fate < 0.006:
            for _ in range(draw.randint(8, 14)):
                pay(card, at + draw.randrange(MANY_WITHIN_MS), draw.randint(300, 9_000), place)
        elif fate < 0.016:
            pay(card, at + draw.randint(1, 30) * HOUR_MS, 5_000, draw.choice(CITIES), "travel")
        elif fate < 0.026:
            pay(card, at + MINUTE_MS, draw.randint(30_000, 300_000), place, "electronics")
        elif fate < 0.036:
            pay(card, at + 5 * MINUTE_MS, draw.randint(1, SMALL_CENTS), place)
            pay(card, at + 5 * MINUTE_MS + draw.randrange(2 * SOON_MS), draw.randint(20_000, 90_000), place)
        elif fate < 0.046:
            pay(card, at - at % DAY_MS + draw.randrange(6 * HOUR_MS), draw.randint(5_000, 200_000), place, "casino")
    return sorted(made, key=lambda payment: (payment.at + draw.randrange(DISORDER_MS), payment.id))


def write_payments(directory: Path, count: int, files: int = 8) -> Path:
    """As NDJSON, in files one after the other. Written once."""
    if not directory.exists():
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        made = payments(count)
        for number in range(files):
            part = made[len(made) * number // files : len(made) * (number + 1) // files]
            lines = "".join(f"{json.dumps(asdict(payment))}\n" for payment in part)
            (unfinished / f"payments-{number:02}.json").write_text(lines, encoding="utf-8")
        unfinished.rename(directory)
    return directory


# the pipeline --------------------------------------------------------------------------------------------------------


def build(env: ps.StreamExecutionEnvironment, data: Path, out: Path, bound: str, rate: int | None = None) -> None:
    """Payments in `data`, alerts in a directory below `out`; disorder up to `bound` is waited for."""
    source = env.from_source(
        FileSource(str(data), Json(Payment), rate_limit=rate),
        ps.WatermarkStrategy.for_bounded_out_of_orderness(bound).with_timestamp_assigner("at"),
        name="payments",
        uid="payments",
    )
    by_card = source.key_by(lambda payment: payment.card, key_type=str)
    rules: tuple[Rule, ...] = (TooMany(), TooFast(), TooMuch(), SmallThenLarge(), Scored(MODEL))
    checked = [by_card.process(rule, output_type=Alert, name=rule.name).uid(rule.name) for rule in rules]
    alerts = checked[0].union(*checked[1:])
    alerts.sink_to(FileSink(str(out / "alerts"), Json()), name="alerts").uid("alerts")
    unchecked = checked[0].get_side_output(late)  # what is late for one rule is late for all
    unchecked.sink_to(FileSink(str(out / "late"), Json()), name="late").uid("late")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fraud rules over card payments.")
    parser.add_argument("--data", type=Path, default=Path(".penstock/payments"))
    parser.add_argument("--out", type=Path, default=Path(".penstock/fraud_detection"))
    parser.add_argument("--payments", type=int, default=20_000, help="how many to make, if there are none")
    parser.add_argument("--bound", default="5min", help="how long to wait for payments that are out of order")
    parser.add_argument("--rate", type=int, default=None, help="payments a second, to watch it run")
    arguments = parser.parse_args()
    env = ps.StreamExecutionEnvironment()
    build(env, write_payments(arguments.data, arguments.payments), arguments.out, arguments.bound, arguments.rate)
    env.execute("fraud detection")


if __name__ == "__main__":
    main()
