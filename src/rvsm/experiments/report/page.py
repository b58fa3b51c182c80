"""The page itself: template and style sheet put together."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

from rvsm.experiments.report.sections import context
from rvsm.experiments.report.source import Study


def render(study: Study) -> str:
    """The whole report as one HTML document; every word from a file is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rvsm.experiments.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("rvsm.experiments.report") / "style.css").read_text(encoding="utf-8")
    template = environment.get_template("template.html.j2")
    return template.render(style=Markup(style), **context(study))
