"""Pages that open from a file: jinja2 templates with their pictures inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2


def render_page(template: str, **values: Any) -> str:
    """Fill in a template, by its path in pipelines; every name in it must be given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def data_url(data: bytes, kind: str = "png") -> str:
    """Return an image's bytes, of kind png, jpeg or webp, as a URL that a page can hold."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
