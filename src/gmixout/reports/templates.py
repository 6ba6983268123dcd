"""Pages from the templates in `page/`."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def filled(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """Return a page, everything that is put into it escaped.

    Args:
        template: Name of the file.
        filters: Functions for the template, by name.
        **values: What it shows.
    """
    environment = Environment(
        loader=PackageLoader("gmixout.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**values)
