"""One self-contained HTML page from sections: pictures and style are inside it."""

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pplvae.report.section import Section


def render(name: str, sections: list[Section]) -> str:
    """Return the page.

    Args:
        name: What the data are called.
        sections: Its parts, in order.
    """
    environment = Environment(
        loader=PackageLoader("pplvae.report", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "minus": _minus}
    return environment.get_template("page.html").render(name=name, sections=sections)


def _minus(text: str) -> str:
    """Return text with the sign of negative numbers as a minus and not a hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
