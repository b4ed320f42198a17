"""Recognise exercises from a watch's motion sensors, sample by sample; trained here, in seconds.

Acceleration and rotation, 50 Hz, in seven shoulder exercises of ten people (Burns et al., 2018).
The network learns from six, a seventh says when to stop, and three that are new to it test it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import assets
import command
import streamrnn as sr
from streamrnn import live, metrics
from training import fit, nn, torch

RATE_HZ, EVERY = 50, 5  # samples in a second; samples from one decision to the next
LEARN, STOP, TEST = (1, 2, 3, 4, 5, 6), (7,), (8, 9, 10)  # people
EXERCISES = ["pendulum", "abduction", "elevation", "turn in", "turn out", "trapezius", "row"]


class Network(nn.Module):  # type: ignore[misc]
    """Samples [B, T, 6] to logits [B, T / 5, 7], causal."""

    def __init__(self) -> None:
        super().__init__()
        past, conv = nn.ConstantPad1d((2 * EVERY - 1, 0), 0.0), nn.Conv1d(6, 32, 2 * EVERY, EVERY)
        self.see = nn.Sequential(nn.BatchNorm1d(6), past, conv, nn.ReLU(), nn.Dropout(0.3))
        self.gru = nn.GRU(32, 48, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(48, len(EXERCISES)))

    def forward(self, xs: Any) -> Any:
        return self.head(self.gru(self.see(xs.transpose(1, 2)).transpose(1, 2))[0])


def loss(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy but for the first two seconds, when nobody can know."""
    z = logits[:, 2 * RATE_HZ // EVERY :].transpose(1, 2)
    return nn.functional.cross_entropy(z, labels[:, None].expand_as(z[:, 0]), label_smoothing=0.1)


def windows(xs: list[Any], labels: Any, chosen: Any) -> Any:
    """Return ten seconds out of every five of the chosen recordings, and their labels."""
    n = 10 * RATE_HZ
    starts = [(r, i) for r in chosen for i in range(0, len(xs[r]) - n + 1, n // 2)]
    cuts = [(xs[r][i : i + n], labels[r]) for r, i in starts]
    return tuple(torch.tensor(np.array(part)) for part in zip(*cuts, strict=True))


def drawn(xs: Any, ps: Any, truth: Any) -> Any:
    """Return a picture of samples, probabilities and truth."""
    figure, (top, bottom) = command.figure(2, sharex=True)
    top.plot(time_s := np.arange(len(xs)) / RATE_HZ, xs[:, :3], lw=0.6)
    top.set(ylabel="acceleration (g)", title="Exercises: probability (blue) and truth (orange)")
    bottom.pcolormesh(np.linspace(0, time_s[-1], len(ps)), range(7), ps.T, cmap="Blues")
    bottom.plot(time_s, truth, color="tab:orange", lw=2.5)
    bottom.set(xlabel="time (s)", yticks=range(7), yticklabels=EXERCISES)
    return figure


def work(args: command.Arguments) -> None:
    """Do what the command line says."""
    data = np.load(assets.watch_npy(), allow_pickle=True).item()  # its hash has been checked
    xs, labels = [np.ascontiguousarray(x, np.float32) for x in data["X"]], data["y"]
    learn, stop, test = (np.flatnonzero(np.isin(data["subject"], p)) for p in (LEARN, STOP, TEST))
    known, chosen = windows(xs, labels, learn), windows(xs, labels, stop)
    network = fit(Network, loss, known, chosen, 12 if args.quick else 40, args.seed)
    model = sr.from_torch(nn.Sequential(network, nn.Softmax(-1)), torch.zeros(1, 100, 6))
    stream, taken, heard = command.ready(model), live.Latencies(), {}
    running, whole = metrics.Classification(7), metrics.Classification(7)
    for r in test:
        stream.reset()
        ps = np.array([p for p in command.timed(stream, xs[r], taken) if p is not None])
        running.run(ps.argmax(1), np.full(len(ps), labels[r]))
        whole.step(ps.mean(0).argmax(), labels[r])
        heard[labels[r]] = xs[r], ps, np.full(len(xs[r]), labels[r])
    # The baseline hears a whole recording, and compares mean and deviation of every axis.
    simple = np.array([[*x.mean(0), *x.std(0)] for x in xs])
    centroids = np.array([simple[learn][labels[learn] == k].mean(0) for k in range(7)])
    scaled = (simple[test, None] - centroids) / simple[learn].std(0)
    nearest = np.mean(np.square(scaled).sum(2).argmin(1) == labels[test])
    print(
        f"Right: {whole.accuracy:.0%} of {len(test)} recordings, {running.accuracy:.0%} on the way"
    )
    print(f"Nearest centroid: {nearest:.0%}, always the same exercise: {1 / 7:.0%}")
    print(f"Latency per sample, every fifth decides: {command.described(taken, 1 / RATE_HZ)}")
    shown = map(np.concatenate, zip(*heard.values(), strict=True))
    command.save(drawn(*shown), args.out / "activity.png")
    command.export(model, args.out / "activity.onnx", xs[test[0]][:1000])


main = command.main(work, __doc__, trains=True)

if __name__ == "__main__":
    raise SystemExit(main())
