"""The page itself: template and style sheet put together."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from rvsm.experiments.report.sections import context
from rvsm.experiments.report.source import Study


def render(study: Study) -> str:
    """The whole report as one HTML document; every word from a file is escaped."""
    return filled("rvsm.experiments.report", **context(study))


def filled(package: str, **values: Any) -> str:
    """The template of a package as one HTML document in the style of all reports.

    Parameters
    ----------
    package
        That holds ``template.html.j2``.
    **values
        What the template names, beside `style`; all text among it is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("rvsm.experiments.report") / "style.css").read_text(encoding="utf-8")
    return environment.get_template("template.html.j2").render(style=Markup(style), **values)
