"""What was fitted: every model and fold, what they warned of, their curves, and how to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medl_scale.report.curve_panels import curve_legend, curve_panels
from medl_scale.report.curves import losses_of
from medl_scale.report.markup import (
    Column,
    Html,
    command,
    definitions,
    details,
    element,
    figure,
    items,
    joined,
    paragraph,
    phrase,
    table,
    told,
    warning,
)
from medl_scale.report.page import Section
from medl_scale.report.sections.missing import Missing, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["MODEL_WORDS", "FitFacts", "curves_section", "fits_section"]

MODEL_WORDS = {
    "me": "joint mixed effects: batch-blind encoder, decoder with random effects of the batch",
    "fe": "fixed effects: autoencoder whose latent an adversary cannot read the batch from",
    "fec": "fixed effects with a classifier of cell types",
    "re": "random effects: autoencoder that knows the batch, with a scale and shift for each",
    "ae": "autoencoder without an adversary",
    "aec": "autoencoder with a classifier of cell types, without an adversary",
    "pca": "principal components, and the same with the batches' means subtracted: the control",
}


@dataclass(frozen=True, eq=False)
class FitFacts:
    """What a run is and how its fits ended."""

    fits: Sequence[Mapping[str, Any]]
    """As `info` lists them: `model`, `fold`, `state` and, if done, figures; `error` if it failed."""
    warnings: Mapping[tuple[str, int], Sequence[str]]
    """What finished fits warned of."""
    settings: str
    """`config.toml`."""
    environment: Mapping[str, Any]
    repeat: Sequence[str]
    """Commands."""
    history: pd.DataFrame
    """One row per model, fold and epoch; may be empty."""
    resume: str
    """The command that finishes what is not."""


def fits_section(facts: FitFacts) -> Section:
    """Return the section on fits, their settings, and how to repeat them."""
    body = [_fits(facts.fits), _troubles(facts)]
    models = list(dict.fromkeys(str(fit["model"]) for fit in facts.fits))
    body.append(
        definitions((element("code", model), MODEL_WORDS.get(model, "")) for model in models)
    )
    body += [
        element("h3", "To repeat it"),
        command(*facts.repeat),
        paragraph(
            "The same settings and seed, the same versions and number of threads give the same weights on "
            "the same kind of processor; on others figures differ in their last digits."
        ),
        details("All settings (config.toml)", command(*facts.settings.splitlines())),
        details("Versions and machine", _environment(facts.environment)),
    ]
    return Section("fits", "What was fitted", joined(body))


def curves_section(facts: FitFacts) -> Section:
    """Return the section on training curves."""
    title = "Training curves"
    if facts.history.empty:
        none = Missing("No model of this run was trained in epochs, so there are no curves.")
        return Section("curves", title, missing(none))
    losses = losses_of(facts.history)
    n_folds = losses["fold"].nunique()
    lines = f" A line for each of {n_folds} folds." if n_folds > 1 else ""
    body = [curve_legend()]
    for model, rows in losses.groupby("model", sort=False):
        caption = (
            f"Loss terms of {model} by epoch; those that span more than thirtyfold on a logarithmic "
            f"scale.{lines}"
        )
        body += [element("h3", element("code", model)), figure(curve_panels(rows), caption)]
    body.append(
        paragraph(
            "Every value of every epoch is in ", element("code", "history.csv"), " of the run."
        )
    )
    return Section("curves", title, joined(body))


def _fits(fits: Sequence[Mapping[str, Any]]) -> Html:
    """Return a row for each fit."""
    columns = [
        Column("model"),
        Column("fold", "right"),
        Column("state"),
        Column("latent", "right", "dimensions of the latent"),
        Column("best epoch", "right", "epoch whose weights were kept, of those trained"),
        Column("error", "right", "validation error of reconstruction over the genes' variance"),
        Column(
            "forest",
            "right",
            "share of validation cells whose batch a fresh forest reads from the latent",
        ),
        Column("iLISI", "right", "batches around a cell, in the latent of validation cells"),
        Column("time", "right"),
        Column("memory", "right", "peak of the process"),
    ]
    rows = []
    for fit in fits:
        probe = fit.get("probe") or {}
        epochs = f"{fit['best_epoch'] + 1} of {fit['epochs']}" if fit.get("epochs") else ""
        memory = fit.get("peak_memory_bytes")
        rows.append(
            [
                element("code", fit["model"]),
                fit["fold"],
                fit["state"],
                fit.get("n_latent", ""),
                epochs,
                _figure(fit.get("relative_error")),
                _figure(probe.get("forest_accuracy")),
                _figure(probe.get("ilisi")),
                f"{fit['seconds']:,.0f} s" if "seconds" in fit else "",
                f"{memory / 2**30:.1f} GiB" if memory else "",
            ]
        )
    return table(
        columns,
        rows,
        caption="A fit for each model and fold. Error: validation error of reconstruction over the genes' "
        "variance. Forest: share of validation cells whose batch a fresh forest reads from the latent. "
        "iLISI: batches around a cell.",
    )


def _troubles(facts: FitFacts) -> Html:
    """Return what failed, is unfinished, or warned."""
    failed, unfinished = [], []
    for fit in facts.fits:
        name = phrase(element("code", fit["model"]), f" fold {fit['fold']}")
        if fit["state"] == "failed":
            failed.append(phrase(name, " failed: ", fit.get("error", "no reason was left")))
        elif fit["state"] != "done":
            unfinished.append(phrase(name, f" is {fit['state']}"))
    warned = [
        phrase(element("code", model), f" fold {fold}: ", told(message))
        for (model, fold), messages in facts.warnings.items()
        for message in messages
    ]
    parts = []
    if failed or unfinished:
        parts += [
            warning("Not every fit is finished. Go on with the command below."),
            items([*failed, *unfinished]),
            command(facts.resume),
        ]
    if warned:
        parts += [element("h3", "Warnings"), items(warned)]
    elif not parts:
        parts.append(paragraph("Every fit is finished, and none warned of anything."))
    return joined(parts)


def _environment(environment: Mapping[str, Any]) -> Html:
    """Return versions and machine."""
    versions = dict(environment.get("versions", {}))
    pairs: list[tuple[object, object]] = list(versions.items())
    for key, title in (
        ("python", "Python"),
        ("machine", "machine"),
        ("cores", "cores"),
        ("started", "started"),
    ):
        if key in environment:
            pairs.append((title, environment[key]))
    return definitions(pairs)


def _figure(value: float | None) -> str:
    """Return a figure to three digits, or nothing."""
    return "" if value is None else f"{value:.3g}"
