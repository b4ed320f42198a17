"""The command's own arguments, and how errors are shown."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import StreamrnnError
from ..version import VERSION
from .bench import bench
from .export import export
from .info import info
from .quantize import quantize
from .run import run
from .verify import verify
from .warmup import warmup

__all__ = ["app"]


class _Commands(typer.core.TyperGroup):
    """Turns the library's errors into a line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StreamrnnError as error:
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                str(error), style="red", markup=False
            )
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamrnn {VERSION}")
        raise typer.Exit


@app.callback()
def streamrnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run trained recurrent networks on live streams."""


for command in (info, run, export, verify, quantize, bench, warmup):
    app.command()(command)
