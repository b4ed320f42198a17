"""Say where a ball in a video will be in a third of a second, picture by picture; trained here.

It flies straight and bounces off walls; where to, one picture does not show. Convolutions look, a
GRU remembers. Trained on clips drawn in memory, tested on others that come from a video file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import command
import streamrnn as sr
from streamrnn import live
from training import fit, nn, torch

RATE_HZ, AHEAD, SIZE = 25, 8, 24  # pictures a second; pictures ahead; pixels
CLIP, LOOK = 50, 10  # pictures in a clip; those of them that nothing is expected of


class Network(nn.Module):  # type: ignore[misc]
    """Pictures [B, T, 24, 24] to places [B, T, 2]; the width of a picture is 1."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
        self.see = nn.Sequential(*layers, nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.gru, self.head = nn.GRU(144, 64, batch_first=True), nn.Linear(64, 2)

    def forward(self, xs: Any) -> Any:
        seen = self.see(xs.flatten(0, 1)[:, None]).unflatten(0, xs.shape[:2])
        return self.head(self.gru(seen)[0])


def loss(places: Any, truth: Any) -> Any:
    """Return the mean distance but for the first pictures of each clip, when nobody can know."""
    return (places - truth).norm(dim=-1).view(-1, CLIP)[:, LOOK:].mean()


def pictures(places: Any, size: int) -> Any:
    """Return a white ball on black at each place: float32 [shape=(..., size, size)]."""
    pixels = (torch.arange(size) + 0.5) / size
    x, y = places[..., None, :1] - pixels, places[..., 1:, None] - pixels[:, None]
    return ((0.12 - torch.hypot(x, y)) * size + 0.5).clamp(0, 1)


def films(seed: int, n: int) -> tuple[Any, Any, Any]:
    """Return pictures of n films of two clips each, where the ball will be, and where it is."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0.01, 0.05, (2 * n, 1, 2)) * rng.choice([-1, 1], (2 * n, 1, 2))
    path = rng.uniform(0, 2, (2 * n, 1, 2)) + speed * np.arange(CLIP + AHEAD)[:, None]
    places = torch.tensor(0.15 + 0.7 * np.abs(path % 2 - 1)).float()  # between the walls
    now, later = (z.reshape(n, 2 * CLIP, 2) for z in (places[:, :CLIP], places[:, AHEAD:]))
    return pictures(now, SIZE), later, now


def drawn(seen: Any, ways: dict[str, Any]) -> Any:
    """Return a picture of every fourth picture of a clip, and of where the ball is expected."""
    figure, rows = command.figure(2)
    for axes, some in zip(rows, np.arange(CLIP + LOOK, 2 * CLIP, 4).reshape(2, 5), strict=True):
        axes.imshow(np.hstack(seen[some]), cmap="gray")
        for (name, way), marker in zip(ways.items(), "o+x", strict=True):
            x, y = SIZE * way[0, some].numpy().T - 0.5
            axes.scatter(x + SIZE * np.arange(5), y, 80, marker=marker, label=name)
        axes.vlines(SIZE * np.arange(1, 5) - 0.5, -0.5, SIZE - 0.5, color="0.5")
        axes.set(xticks=[], yticks=[])
    figure.suptitle(f"Where the ball will be {AHEAD} pictures later")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(ways))
    return figure


def work(args: command.Arguments) -> None:
    """Do what the command line says."""
    file, epochs = args.out / "ball.mp4", 10 if args.quick else 30
    learn, stop, (_, later, now) = films(1, 200), films(2, 50), films(3, 10)
    command.film(file, pictures(now.flatten(0, 1), 4 * SIZE).numpy(), RATE_HZ)
    network = fit(Network, loss, learn, stop, epochs, args.seed)
    model = sr.from_torch(network, learn[0][:1, :2])
    stream, taken = command.ready(model), live.Latencies()
    with live.Video(file, SIZE, SIZE, channels=1) as source:
        seen = np.array([frame.data[0] for frame in source])
    ys = torch.tensor(np.array(list(command.timed(stream, seen, taken)))).reshape(now.shape)
    # One picture tells no more than this: where other balls went that were seen near there.
    _, places, known = (z.flatten(0, -2) for z in learn)
    near = torch.cdist(now, known).topk(50, largest=False).indices
    ways = {"truth": later, "one picture": places[near].mean(-2), "network": ys}
    for name in ("one picture", "network"):
        print(f"{name}: {SIZE * loss(ways[name], later):.1f} pixels of {SIZE}")
    print(f"Latency per picture of 40 ms: {command.described(taken, 1 / RATE_HZ)}")
    command.save(drawn(seen, ways), args.out / "video.png")
    command.export(model, args.out / "video.onnx", seen[: 4 * CLIP])


main = command.main(work, __doc__, trains=True)

if __name__ == "__main__":
    raise SystemExit(main())
