"""The command `penstock`: its verbs are in commands/, grouped by what they are about.

Exit codes: 0, the bounded job has finished and all its results are committed; 1, it failed; 2, the command was used
wrongly; 130, it was stopped (Ctrl-C, SIGTERM) after a last checkpoint, from which `-s latest` continues.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..runtime.configuration.masking import masked
from ..runtime.configuration.options import OPTIONS
from ..runtime.versions import own_versions
from .commands import cluster, common, gc, jobs, run, savepoint_check, savepoints, state
from .commands.common import ConfigFlag, Output, OutputFlag, telling

app = typer.Typer(
    name="penstock",
    help="Stateful stream processing for Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

app.command(name="run", no_args_is_help=True)(run.run)
app.command(name="submit", no_args_is_help=True)(run.submit)
app.command(name="list")(jobs.list_jobs)
app.command(name="describe", no_args_is_help=True)(jobs.describe)
app.command(name="cancel", no_args_is_help=True)(jobs.cancel)
app.command(name="stop", no_args_is_help=True)(savepoints.stop)
app.command(name="checkpoint", no_args_is_help=True)(savepoints.checkpoint)
app.command(name="checkpoints", no_args_is_help=True)(jobs.checkpoints)
savepoints.app.command("check", no_args_is_help=True)(savepoint_check.check)
app.add_typer(savepoints.app, name="savepoint")
app.add_typer(state.app, name="state")
app.command(name="logs")(jobs.logs)
app.command(name="gc", no_args_is_help=True)(gc.gc)
app.add_typer(cluster.app, name="cluster")


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The same as the verb.")
    ] = False,
) -> None: ...


@app.command()
def version(output: OutputFlag = Output.TEXT) -> None:
    """Print the versions of penstock, of Python, and of what client and cluster must share."""
    versions = own_versions()
    if output is Output.JSON:
        typer.echo(json.dumps(versions))
    else:
        typer.echo(", ".join(f"{name} {versions[name]}" for name in ("penstock", "python")))


@app.command(name="config")
@telling
def show_config(config: ConfigFlag = None, output: OutputFlag = Output.TEXT) -> None:
    """Print every option with its value here (flags, environment, penstock.yaml) and what it does."""
    configuration = common.configuration(common.parse_settings(config or []))
    values = masked(configuration.to_dict())
    rows = [
        {
            "key": option.key,
            "value": values.get(option.key, option.format(option.default)),
            "default": option.format(option.default),
            "type": option.kind.name,
            "description": option.description,
        }
        for option in OPTIONS
    ]
    if output is Output.JSON:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        changed = "" if row["value"] == row["default"] else f"  (default {row['default'] or 'none'})"
        typer.echo(f"{row['key']}: {row['value'] or 'none'}{changed}\n    {row['description']}")
    for note in configuration.notes:
        typer.echo(f"note: {note}", err=True)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
