"""Tables of the supplement: ours, mean and spread over seeds, beside the logged numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.cells import comma_separated, markdown, spread
from benchmarks.common.methods import METHODS
from benchmarks.common.metrics import LABELS, NAMES, SCALES
from benchmarks.supplement.logged import SIMULATION, STOPPING, TRUE_EXPERIMENT
from benchmarks.supplement.plan import PRESET, Plan, logged_rewriting

Found = dict[Any, dict[str, Any]]

NONE = "–"
"""Where nothing was logged."""


class Measure(NamedTuple):
    """A column: heading, value of one result, and its format."""

    heading: str
    value: Callable[[dict[str, Any]], float]
    form: str


@dataclass(frozen=True)
class Table:
    """A table for people, with means and spreads, and one for programs, with a row per seed."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    raw_columns: Sequence[str]
    raw_rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        return markdown(self.columns, self.rows)

    def write(self, item: str, origin: str, folder: Path) -> list[Path]:
        """Write CSV and Markdown; ``origin`` says what made them."""
        folder.mkdir(parents=True, exist_ok=True)
        csv = folder / f"{item}.csv"
        csv.write_text(f"# {origin}\n{comma_separated(self.raw_columns, self.raw_rows)}", encoding="utf-8")
        page = folder / f"{item}.md"
        page.write_text(f"{self.markdown()}\n\n{origin}\n", encoding="utf-8")
        return [csv, page]


ERRORS = tuple(
    Measure(
        f"RMSE {NAMES[label]}",
        lambda result, label=label: SCALES[label] * result[f"rmse_{label}"],
        {"f": ".4f", "d": ".2f", "dstar": ".1f"}[label],
    )
    for label in LABELS
)
EPOCHS = Measure("epochs", lambda result: result["epochs"], ".0f")
ITERATIONS = Measure("data iterations", lambda result: result["data_iterations"], ".1f")
MINUTES = Measure("CPU minutes", lambda result: result["seconds"] / 60, ".2f")
NOISY_LOSS = Measure("loss against noisy signals", lambda result: result["noisy_loss"], ".5f")
REPLACED = Measure("replaced (%)", lambda result: 100 * result["replaced"], ".0f")
SIGNALS = Measure("RMSE training signals", lambda result: result["iterations"][-1]["rmse_signals"], ".4f")


def make(
    names: Sequence[str],
    found: Found,
    measures: Sequence[Measure],
    logged_names: Sequence[str] = (),
    logged: dict[Hashable, Sequence[str]] | None = None,
) -> Table:
    """Group results by all of their key but the seed, which comes last.

    Parameters
    ----------
    names : sequence of str
        Headings of the key.
    found : dict of tuple to dict
    measures : sequence of Measure
    logged_names : sequence of str
    logged : dict of tuple to sequence of str
        Logged numbers by key; a row that has none shows a dash.
    """
    groups: dict[tuple, list[dict]] = {}
    for (*key, _), result in found.items():
        groups.setdefault(tuple(key), []).append(result)
    rows = [
        (
            *(_text(part) for part in key),
            *(spread((measure.value(result) for result in results), measure.form) for measure in measures),
            *(logged or {}).get(key, [NONE] * len(logged_names)),
        )
        for key, results in groups.items()
    ]
    headings = [measure.heading for measure in measures]
    return Table(
        columns=[*names, *headings, *(f"logged: {name}" for name in logged_names)],
        rows=rows,
        raw_columns=[*names, "seed", *headings],
        raw_rows=[(*key, *(measure.value(result) for measure in measures)) for key, result in found.items()],
    )


def stopping_table(plan: Plan, found: Found) -> Table:
    logged = {
        (settings, row.lambda_): (
            ", ".join(f"{minutes:g}" for minutes in row.minutes),
            f"{row.noisy_loss:.5f}",
            *_errors(row),
        )
        for settings in ("default", PRESET)
        for row in STOPPING
    }
    return make(
        ["settings", "lambda"],
        found,
        [MINUTES, EPOCHS, ITERATIONS, NOISY_LOSS, *ERRORS],
        ["minutes", "val_sn_loss", *_error_names()],
        logged,
    )


def thresholds_table(plan: Plan, found: Found) -> Table:
    names = ["SNR", "fitting threshold", "neighbour threshold"]
    return make(names, found, [*ERRORS, REPLACED, ITERATIONS, EPOCHS])


def batch_table(plan: Plan, found: Found) -> Table:
    return make(["tiles per step"], found, [*ERRORS, EPOCHS, ITERATIONS, MINUTES])


def limit_table(plan: Plan, found: Found) -> Table:
    return make(["max_iterations"], found, [*ERRORS, SIGNALS, EPOCHS, MINUTES])


def snr_table(plan: Plan, found: Found) -> Table:
    logged_settings = logged_rewriting(plan)
    words = {
        name: f"{one.fitting_threshold}, {one.resolved_neighbour_threshold} ({name})"
        for name, one in (("default", plan.settings), ("logged", logged_settings))
    }
    named = {
        (snr, words[which], seed): result.get("si-cnn", result)
        for (snr, which, seed), result in found.items()
    }
    logged = {(row.snr, word): _errors(row) for row in SIMULATION for word in words.values()}
    return make(["SNR", "thresholds: fitting, neighbour"], named, ERRORS, _error_names(), logged)


def by_method(found: Found) -> Found:
    """Results of all methods by (method of the truth, SNR, seed) -> one result by (..., method, seed)."""
    return {
        (truth, snr, method, seed): result[method]
        for (truth, snr, seed), result in found.items()
        for method in METHODS
    }


def true_table(plan: Plan, found: Found) -> Table:
    # Two results are logged per SNR; the last ones are the better ones.
    last = {row.snr: _errors(row) for row in TRUE_EXPERIMENT}
    logged = {(truth, snr, "si-cnn"): errors for truth in plan.truths for snr, errors in last.items()}
    return make(["truth by", "SNR", "method"], by_method(found), ERRORS, _error_names(), logged)


def _error_names() -> list[str]:
    return [NAMES[label] for label in LABELS]


def _errors(row: Any) -> list[str]:
    """F, D and D* of a logged row in the units of the tables."""
    return [
        format(SCALES[label] * getattr(row, label), error.form)
        for label, error in zip(LABELS, ERRORS, strict=True)
    ]


def _text(part: object) -> str:
    return f"{part:g}" if isinstance(part, int | float) else str(part)


TABLES: dict[str, Callable[[Plan, Found], Table]] = {
    "table-lambda": stopping_table,
    "table-thresholds": thresholds_table,
    "table-batch": batch_table,
    "table-limit": limit_table,
    "table-snr": snr_table,
    "table-true": true_table,
}
