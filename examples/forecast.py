"""Forecast the CO2 in the air thirteen weeks ahead, one weekly measurement at a time; trained here.

Mauna Loa, 1958 to 2001 (Keeling and Whorf, 2004). The network learns from the years before 1985,
those before 1990 say when to stop, the others are the test. Where a week was not measured, the last
value is held, and no forecast for it is learnt from or scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import assets
import command
import streamrnn as sr
from streamrnn import live, metrics
from training import fit, nn, torch

AHEAD, YEAR = 13, 52  # weeks


class Network(nn.Module):  # type: ignore[misc]
    """Frames [B, T, 3] to the change in the weeks ahead [B, T, 1], in ppm."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 32, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, xs: Any) -> Any:
        return self.head(self.gru(xs)[0])


def loss(changes: Any, truth: Any) -> Any:
    """Return the mean squared error where there is a truth, after the first year of a sequence."""
    counts = truth[:, YEAR:].isfinite()
    return nn.functional.mse_loss(changes[:, YEAR:][counts], truth[:, YEAR:][counts])


def series() -> tuple[Any, Any]:
    """Return dates, and the CO2 of each week in ppm, NaN where it was not measured."""
    rows = np.genfromtxt(assets.co2_csv(), str, delimiter=",", skip_header=1)
    dates = [f"{date[:4]}-{date[4:6]}-{date[6:]}" for date, _ in rows]
    return np.array(dates, "datetime64[D]"), np.array([float(ppm or "nan") for _, ppm in rows])


def frames(dates: Any, ppm: Any) -> Any:
    """Return each week's change in ppm and season; around 1 as they are, so nothing is scaled."""
    season = 2 * np.pi * (dates - dates.astype("datetime64[Y]")).astype(float) / 365.25
    return np.stack([np.diff(ppm, prepend=ppm[0]), np.sin(season), np.cos(season)], 1).astype("f4")


def drawn(dates: Any, ppm: Any, curves: dict[str, Any]) -> Any:
    """Return a picture of measurements and two forecasts, and of what was wrong with these."""
    figure, (top, bottom) = command.figure(2, sharex=True)
    top.plot(dates, ppm, "k.", ms=2, label="measured")
    for name in list(curves)[1::-1]:
        top.plot(dates, curves[name][-len(ppm) :], lw=1, label=name)
        bottom.plot(dates, curves[name][-len(ppm) :] - ppm, lw=1)
    top.set(ylabel="CO2 (ppm)", title=f"CO2 at Mauna Loa, as forecast {AHEAD} weeks before")
    bottom.set(ylabel="error (ppm)")
    top.legend()
    return figure


def work(args: command.Arguments) -> None:
    """Do what the command line says."""
    dates, ppm = series()
    held = ppm[np.maximum.accumulate(np.where(np.isfinite(ppm), np.arange(len(ppm)), 0))]
    xs, truth = frames(dates, held), (ppm[AHEAD:] - held[:-AHEAD]).astype(np.float32)[:, None]
    stop, test = np.searchsorted(dates, np.array(["1985", "1990"], "datetime64[D]"))
    known = [torch.tensor(z[: stop - AHEAD]).unfold(0, 3 * YEAR, 4).mT for z in (xs, truth)]
    later = [torch.tensor(z[None, stop - YEAR : test - AHEAD]) for z in (xs, truth)]
    network = fit(Network, loss, known, later, 12 if args.quick else 40, args.seed)
    model = sr.from_torch(network, known[0][:1])
    stream, taken = command.ready(model), live.Latencies()
    ys = np.array(list(command.timed(stream, xs, taken)))[:, 0]
    before, year = np.roll(held, AHEAD), np.roll(held, YEAR)
    curves = {
        "network": np.roll(held + ys, AHEAD),
        "a year before, and its growth": year + before - np.roll(before, YEAR),
        "a year before": year,
        f"{AHEAD} weeks before": before,
    }
    scored = test + np.flatnonzero(np.isfinite(ppm[test:]))
    print(f"Of {len(scored)} weeks from 1990 on:          MAE     RMSE    sMAPE")
    for name, curve in curves.items():
        (error := metrics.ForecastError()).run(curve[scored], ppm[scored])
        print(f"  {name:30} {error.mae:.2f} ppm {error.rmse:.2f} ppm {error.smape_percent:.2f} %")
    print(f"Latency per week: {command.described(taken, 7 * 86400)}")
    command.save(drawn(dates[test:], ppm[test:], curves), args.out / "forecast.png")
    command.export(model, args.out / "forecast.onnx", xs[:500])


main = command.main(work, __doc__, trains=True)

if __name__ == "__main__":
    raise SystemExit(main())
