"""From what a report shows to the HTML of its page. Nothing in a page is loaded from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from .coloured_text import OPACITIES
from .style import Picture, shown, shown_token, to_svg


def render(template: str, **values: Any) -> str:
    """A page from a template of the folder `templates`; texts are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": _svg, "shown": shown, "shown_token": shown_token}
    environment.globals["opacities"] = OPACITIES
    return environment.get_template(template).render(**values)


def _svg(picture: Picture) -> Markup:
    return Markup(to_svg(picture))
