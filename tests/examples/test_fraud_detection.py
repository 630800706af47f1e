"""The fraud rules against a naive oracle over the same payments: straight, killed and restored, at another
parallelism; and each rule at its limits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from penstock.runtime.elements import MAX_WATERMARK
from penstock.runtime.keys import KeyByFunction
from penstock.runtime.operators.keyed_process import KeyedProcessOperator
from penstock.runtime.records.record_types import record_type_of
from penstock.testing import OperatorHarness

if TYPE_CHECKING:
    from conftest import KillOnTheWay

EXAMPLES = Path(__file__).parents[2] / "examples"
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
COUNT = 2_500


@pytest.fixture(scope="module")
def data(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = example.write_payments(tmp_path_factory.mktemp("fraud") / "payments", COUNT)
    return written


# ---- the oracle: every payment against all of its card before it


def km(a: Any, b: Any) -> float:
    """By the angle between two vectors from the middle of the earth."""

    def vector(p: Any) -> tuple[float, float, float]:
        north, east = math.radians(p.latitude), math.radians(p.longitude)
        return math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north)

    one, other = vector(a), vector(b)
    x, y, z = (one[(i + 1) % 3] * other[(i + 2) % 3] - one[(i + 2) % 3] * other[(i + 1) % 3] for i in range(3))
    return 6_371.0 * math.atan2(math.hypot(x, y, z), sum(p * q for p, q in zip(one, other, strict=True)))


def suspicions(before: list[Any], payment: Any, model: dict[str, Any]) -> dict[str, float]:
    """Of a payment, after all those of its card before it, in order."""
    found: dict[str, float] = {}
    recent = 1 + sum(other.at > payment.at - 10 * MINUTE for other in before)
    if recent > 10:
        found["too many"] = recent
    if before and before[-1].at > payment.at - 21 * HOUR:
        kmh = km(before[-1], payment) * HOUR / max(SECOND, payment.at - before[-1].at)
        if kmh > 1_000:
            found["too fast"] = kmh
    month = [other.cents for other in before if other.at // DAY > payment.at // DAY - 30]
    if len(month) >= 5 and payment.cents > 10 * sum(month) / len(month):
        found["too much"] = payment.cents / (sum(month) / len(month))
    if before and before[-1].cents <= 100 and payment.cents >= 50_000 and payment.at - before[-1].at < MINUTE:
        found["small then large"] = payment.at - before[-1].at
    features = (
        model["bias"] + model["log_amount"] * math.log10(payment.cents) + model["categories"].get(payment.category, 0)
    )
    score = 1 / (1 + math.exp(-features - (model["night"] if payment.at % DAY < 6 * HOUR else 0)))
    if score > model["threshold"]:
        found["score"] = score
    return found


def expected(example: ModuleType, data: Path) -> dict[tuple[str, int], float]:
    lines = [line for path in sorted(data.iterdir()) for line in path.read_text().splitlines()]
    model = json.loads(example.MODEL.read_text())
    of_card: dict[str, list[Any]] = {}
    found = {}
    for payment in sorted((example.Payment(**json.loads(line)) for line in lines), key=lambda p: (p.at, p.id)):
        before = of_card.setdefault(payment.card, [])
        found.update({(rule, payment.id): value for rule, value in suspicions(before, payment, model).items()})
        before.append(payment)
    return found


def read(directory: Path) -> list[dict[str, Any]]:
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(("_", "."))]
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def assert_exact(example: ModuleType, data: Path, out: Path) -> None:
    alerts = read(out / "alerts")
    found = {(alert["rule"], alert["payment"]): alert["value"] for alert in alerts}
    golden = expected(example, data)
    assert {rule for rule, _ in golden} == {"too many", "too fast", "too much", "small then large", "score"}
    assert len(alerts) == len(found), "no alert is given twice"
    assert found == pytest.approx(golden, rel=1e-6)
    assert read(out / "late") == []


def command(data: Path, out: Path, *flags: str, rate: int | None = None) -> list[str]:
    script = ["--data", str(data), "--out", str(out)] + ([] if rate is None else ["--rate", str(rate)])
    job = str(EXAMPLES / "fraud_detection.py")
    return [sys.executable, "-m", "penstock.api.command_line", "run", job, "--local", *flags, "--", *script]


def run(cwd: Path, *arguments: Any) -> None:
    finished = subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=100)
    assert finished.returncode == 0, finished.stderr


def test_straight_through(tmp_path: Path, example: ModuleType, data: Path) -> None:
    run(tmp_path, data, tmp_path / "out", "-p", "2")
    assert_exact(example, data, tmp_path / "out")


def test_killed_and_restored_at_another_parallelism(
    tmp_path: Path, example: ModuleType, data: Path, kill_on_the_way: KillOnTheWay
) -> None:
    out = tmp_path / "out"
    often = ("-c", "execution.checkpointing.interval=100ms")
    kill_on_the_way(command(data, out, "-p", "2", *often, rate=800), 3)
    run(tmp_path, data, out, "-p", "3", "-s", "latest")
    assert_exact(example, data, out)


# ---- each rule at its limits


BERLIN, PARIS = (52.52, 13.405), (48.8566, 2.3522)  # 877.46 km


class Card:
    """One card's payments for one rule."""

    def __init__(self, example: ModuleType, rule: Any) -> None:
        self.example = example
        operator = KeyedProcessOperator(rule, KeyByFunction(lambda p: p.card), record_type_of(example.Alert))
        self.harness = OperatorHarness(operator, record_type=example.Payment)
        self.paid: list[Any] = []

    def pay(self, at: int, cents: int = 2_000, place: tuple[float, float] = BERLIN, category: str = "fuel") -> None:
        self.paid.append(self.example.Payment(len(self.paid), "card", at, cents, *place, category))

    def alerts(self) -> list[tuple[int, float]]:
        """(number of the payment, value); nothing is left in state afterwards."""
        with self.harness as harness:
            for payment in reversed(self.paid):
                harness.push([payment], [payment.at])
            harness.watermark(MAX_WATERMARK)
            operator = harness.operator
            assert isinstance(operator, KeyedProcessOperator)
            harness.snapshot()  # writes out what was removed
            assert operator.backend.statistics().entries == 0
            return [(alert.payment, alert.value) for alert in harness.output]


def test_the_eleventh_payment_within_ten_minutes(example: ModuleType) -> None:
    card = Card(example, example.TooMany())
    for n in range(10):
        card.pay(HOUR + n * SECOND)
    card.pay(HOUR + 10 * MINUTE)  # the first is ten minutes ago
    card.pay(HOUR + 10 * MINUTE)
    assert card.alerts() == [(11, 11)]


def test_paris_an_hour_after_berlin_is_no_flight_but_fifty_minutes_are(example: ModuleType) -> None:
    card = Card(example, example.TooFast())
    card.pay(HOUR)
    card.pay(2 * HOUR, place=PARIS)
    card.pay(2 * HOUR + 50 * MINUTE, place=BERLIN)
    card.pay(2 * HOUR + 50 * MINUTE, place=PARIS)
    card.pay(9 * DAY, place=BERLIN)
    ((second, kmh), (third, at_once)) = card.alerts()
    assert (second, third) == (2, 3)
    assert kmh == pytest.approx(877.46 * 6 / 5, rel=1e-4)
    assert at_once == pytest.approx(877.46 * 3_600, rel=1e-4), "as if it were a second"


def test_more_than_ten_times_the_mean_of_thirty_days(example: ModuleType) -> None:
    card = Card(example, example.TooMuch())
    for n in range(5):
        card.pay(DAY + n * HOUR, cents=1_000)
    card.pay(2 * DAY, cents=10_000)
    card.pay(31 * DAY - 1, cents=25_001)  # of six payments, 15,000 together
    card.pay(31 * DAY, cents=1_000_000)  # of two, for the first day is over
    assert card.alerts() == [(6, pytest.approx(10.0004))]


def test_a_large_one_right_after_a_small_one(example: ModuleType) -> None:
    card = Card(example, example.SmallThenLarge())
    for start, between, gap in ((HOUR, False, MINUTE - 1), (2 * HOUR, False, MINUTE), (3 * HOUR, True, 30 * SECOND)):
        card.pay(start, cents=100)
        if between:
            card.pay(start + SECOND, cents=101)
        card.pay(start + gap, cents=50_000)
    assert card.alerts() == [(1, MINUTE - 1)]


def test_the_model_is_loaded_and_asked(example: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    card = Card(example, example.Scored(path))
    path.write_text(json.dumps({"bias": -3, "log_amount": 1, "night": 0.5, "categories": {"x": 1}, "threshold": 0.5}))
    card.pay(DAY + 7 * HOUR, cents=1_000)  # 0.5 exactly
    card.pay(DAY + 8 * HOUR, cents=1_000, category="x")
    card.pay(2 * DAY, cents=1_000)
    assert card.alerts() == [(1, pytest.approx(0.7310586)), (2, pytest.approx(0.6224593))]
