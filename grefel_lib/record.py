"""metrics.json: every number of an evaluation, from its saved predictions."""

from typing import Any

import pandas as pd

from grefel_lib import calibration, groups, inspection, metrics, people
from grefel_lib.evaluated import Evaluated


def build(found: Evaluated) -> dict[str, Any]:
    """Everything metrics.json says about an evaluation.

    Returns:
        dataset, protocol, split, leaks dropped, the selection rule, the headline checkpoint; for
        each checkpoint its epoch, validation accuracy, metrics, their 95% intervals (images
        resampled), calibration, temperature (fitted on validation; null without it) and the
        calibration after it, sureness (how well errors are foretold), per_class; and of the
        headline, where known: people (what annotators reach), copies (accuracy on faces that
        training holds too), attributes (accuracy by group of person), label_detection.

    Raises:
        ValueError: The checkpoints were scored on different images.
    """
    tables = found.predictions
    if len({tuple(table["id"]) for table in tables.values()}) > 1:
        sizes = ", ".join(f"{name} {len(table)}" for name, table in tables.items())
        raise ValueError(f"different images were scored ({sizes}); score all on the same split")
    known = found.facts["checkpoints"]
    record = dict(found.facts) | {
        "checkpoints": {
            name: dict(known[name]) | _checkpoint(table, found.validation.get(name))
            for name, table in tables.items()
        }
    }
    for name, part in (("people", people.ceiling(found.table)), ("copies", groups.copies(found))):
        if part is not None:
            record[name] = part.to_dict(orient="index")
    record["attributes"] = {
        name: table.to_dict(orient="index") for name, table in groups.attributes(found).items()
    }
    if found.training is not None:
        record["label_detection"] = inspection.detection(found.training)
    return record


def _checkpoint(table: pd.DataFrame, validation: pd.DataFrame | None) -> dict[str, Any]:
    intervals = metrics.intervals(table)
    temperature = None if validation is None else calibration.fit_temperature(validation)
    after = None if temperature is None else calibration.with_temperature(table, temperature)
    sureness = calibration.error_detection(table).replace({float("nan"): None})
    return {
        "metrics": metrics.evaluate(table),
        "intervals": {name: [row["low"], row["high"]] for name, row in intervals.iterrows()},
        "calibration": calibration.evaluate(table),
        "temperature": temperature,
        "calibration_after": None if after is None else calibration.evaluate(after),
        "sureness": sureness.to_dict(orient="index"),
        "per_class": metrics.per_class(table).to_dict(orient="records"),
    }
