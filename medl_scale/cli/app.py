"""The command line itself: how it talks, and what errors become.

Nothing heavy is imported in this package, so that `medl-scale --help` answers at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, override

import typer  # noqa: TID253 - the command line is what it is for
from typer.core import TyperGroup  # noqa: TID253

from medl_scale.errors import MedlError

if TYPE_CHECKING:
    from medl_scale.progress import Progress

__all__ = ["app", "talk_of"]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# As they are used, one after another.
ORDER = (
    "simulate",
    "prepare",
    "fit",
    "evaluate",
    "report",
    "project",
    "genomap",
    "effects",
    "sketch",
    "compare",
    "embed",
    "info",
)


class Commands(TyperGroup):
    """The commands: what users can mend, and Ctrl-C, become one line and an exit code."""

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in ORDER if name in self.commands]

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MedlError as error:
            notes = getattr(error, "__notes__", [])
            talk_of(ctx).fail("error", " ".join([f"Error: {error}", *notes]))
            raise typer.Exit(EXIT_USER_ERROR) from error
        except KeyboardInterrupt as error:
            rest = "Continue the run with --resume." if ctx.invoked_subcommand == "fit" else ""
            talk_of(ctx).fail("interrupted", f"Interrupted. {rest}".rstrip())
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    name="medl-scale",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Separate what a cell [b]is[/b] from the batch it came from, at atlas scale.\n\n"
        "Typical use:\n\n"
        "  medl-scale prepare counts.h5ad -o atlas.zarr --batch-key donor --labels-key cell_type\n\n"
        "  medl-scale fit atlas.zarr --workers 4\n\n"
        "  medl-scale evaluate runs/atlas --workers 4\n\n"
        "The latents are then in obsm of atlas.zarr: X_medl_me (integrated), X_medl_fe, X_medl_re."
    ),
)


@dataclass
class Talk:
    """How much the command says."""

    quiet: bool = False
    verbose: bool = False
    log_json: bool = False

    def progress(self) -> Progress:
        """Return where long steps report to."""
        from medl_scale.progress import BarProgress, JsonProgress, SilentProgress

        if self.log_json:
            return JsonProgress()
        return SilentProgress() if self.quiet else BarProgress(verbose=self.verbose)

    def say(self, message: str) -> None:
        """Print a line of the result, unless it is to be quiet or for machines."""
        if not self.quiet and not self.log_json:
            typer.echo(message)

    def warn(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        """Print a warning meant for users as one line; leave out those of libraries to each other."""
        if not issubclass(category, UserWarning):
            return
        if self.log_json:
            self.progress().note(str(message), level="warning")
        elif not self.quiet:
            typer.echo(f"Warning: {message}", err=True)

    def fail(self, level: str, message: str) -> None:
        """Print why the command ends."""
        if self.log_json:
            self.progress().note(message, level=level)
        else:
            typer.echo(message, err=True)


def talk_of(ctx: typer.Context, **how: bool) -> Talk:
    """Return how the running command talks, having set it where options are given."""
    root = ctx.find_root()
    if how or root.obj is None:
        root.obj = Talk(**how)
        warnings.showwarning = root.obj.warn
    talk: Talk = root.obj
    return talk
