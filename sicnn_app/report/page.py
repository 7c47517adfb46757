"""Templates to pages: one look for the reports of subjects and of the group."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from sicnn_app.formats import printable


def vendored(name: str) -> str:
    """Text of a file in ``vendor``, as its library publishes it; ``libraries.tsv`` there says whose it is."""
    return (files("sicnn_app.report") / "vendor" / name).read_text(encoding="utf-8")


def render_page(
    template: str,
    *,
    styles: tuple[str, ...],
    scripts: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
    package: str = "sicnn_app.report",
    **context: object,
) -> bytes:
    """HTML of a template of the reports; texts from a dataset are escaped, and what cannot be seen shows.

    Parameters
    ----------
    template : str
        File name in the templates of ``package``.
    styles, scripts : tuple of str
        File names of the style sheets and programs that become part of the page.
    libraries : tuple of str
        File names in ``vendor`` of scripts and style sheets that stand before those.
    package : str
        Whose templates are looked through before those of :mod:`sicnn_app.report`, which it may use.
    **context
        What the template asks for.
    """
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "sicnn_app.report"))]
    loader = jinja2.ChoiceLoader(loaders)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    css, script = (
        "".join(
            [
                *(vendored(name) for name in libraries if name.endswith(ending)),
                *(loader.get_source(environment, name)[0] for name in names),
            ]
        )
        for ending, names in ((".css", styles), (".js", scripts))
    )
    own = {"css": jinja2.utils.markupsafe.Markup(css), "script": jinja2.utils.markupsafe.Markup(script)}
    page = environment.get_template(template).render(**own, **context)
    return page.lstrip().encode("utf-8")


def _seen(value: object) -> object:
    """Text without the codes that turn around or hide what a reader sees; other values as they are."""
    if not isinstance(value, str) or isinstance(value, jinja2.utils.markupsafe.Markup) or value.isprintable():
        return value
    return "".join(letter if letter.isspace() else printable(letter) for letter in value)
