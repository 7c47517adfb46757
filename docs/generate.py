"""Pages of the site that are made from the app, and links that suit it: a hook of mkdocs, see ``mkdocs.yml``.

    python docs/generate.py

writes the drawing and the table of packages in ``docs/architecture.md`` anew. Everything but the two
functions at the end, which mkdocs calls, needs nothing but the app.
"""

from __future__ import annotations

import argparse
import ast
import html
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import sicnn_app
from sicnn_app.cli import arguments, dicom, simulate
from sicnn_app.derivatives.qc import MOTION_COLUMNS, VOLUME_COLUMNS
from sicnn_app.derivatives.quality import columns
from sicnn_app.derivatives.regions import COLUMNS as REGION_COLUMNS
from sicnn_app.group.columns import table_columns
from sicnn_app.group.repeats import COLUMNS as REPEATABILITY_COLUMNS
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import all_maps

DOCS = Path(__file__).parent
ROOT = DOCS.parent

BROUGHT = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "requirements/README.md": "requirements.md",
}
"""Texts of the repository outside ``docs`` that the site has as pages, by their paths."""

CONTRIBUTING = "<!-- here: CONTRIBUTING.md -->"
"""Line of ``docs/contributing.md`` in whose place the site has that file, without its heading."""

LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")

NAMED_BY_FILE = re.compile(r"(?<!!)\[[\w./-]+\.md\]\(([^)\s]+)\)")
"""A link whose words are the name of a file."""

# --------------------------------------------------------------------------------------------------- Tables


def escaped(text: object) -> str:
    """Plain text as Markdown that shows it as it is, also in a cell of a table."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; its cells are Markdown."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def column_table(described: dict[str, dict[str, Any]]) -> str:
    """The columns of a table of the app, from what its sidecar says of them."""
    return table(
        ("column", "meaning", "unit"),
        (
            (
                f"`{name}`",
                escaped(f"{words['LongName']}. {words['Description']}"),
                escaped(words.get("Units", "")),
            )
            for name, words in described.items()
        ),
    )


# ---------------------------------------------------------------------------------------------------- Pages


def flag_entries(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every group of a parser as a heading, every argument of it as a smaller one with its help."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        yield f"### {str(group.title).capitalize()} {{ #{parser.prog}-{group.title.replace(' ', '-')} }}\n"
        for action in actions:
            name = (action.option_strings or [action.metavar or action.dest])[-1]
            names = ", ".join(f"`{flag}`" for flag in action.option_strings or [name])
            yield f"#### {names} {{ #{parser.prog}-{name.strip('-').lower()} }}\n"
            takes = [f"`{choice}`" for choice in action.choices or ()]
            if not takes and action.option_strings and action.nargs != 0:
                takes = [f"`{formatter._format_args(action, action.dest.upper())}`"]
            yield f"{', '.join(takes)}{': ' if takes else ''}{escaped(formatter._expand_help(action))}\n"


def flags_page() -> str:
    """Flags of all commands, from their parsers."""
    parts = [
        "# Flags\n",
        "Made from the parsers of the commands; `--help` prints the same in the terminal. "
        "Every default stands in the text.\n",
    ]
    for parser in (arguments.build_parser(), simulate.build_parser(), dicom.build_parser()):
        parts += [f"## `{parser.prog}` {{ #{parser.prog} }}\n", f"{escaped(parser.description)}\n"]
        parts += flag_entries(parser)
        if parser.epilog:
            parts += [f"{escaped(parser.epilog)}\n"]
    return "\n".join(parts)


def section(page: str, heading: str) -> str:
    """What stands below a heading of the second level in a text of the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip() + "\n"


def outputs_page() -> str:
    """Files, maps, flags and columns, from the tables by which the app writes them."""
    maps = (
        (f"`{spec.label}`", escaped(spec.symbol), escaped(spec.description), escaped(spec.unit), bounds)
        for spec in all_maps()
        for bounds in ["" if spec.bounds is None else f"{spec.bounds[0]:g} to {spec.bounds[1]:g}"]
    )
    flags = ((str(flag.code), f"`{flag.name}`", escaped(flag.description)) for flag in FLAGS)
    return "\n".join(
        [
            "# Outputs\n",
            "Made from the tables by which the app writes its files. The `.json` beside a map or table says "
            "the same, and what was done in this run.\n",
            "## Files\n",
            rewritten(section("docs/daily-use.md", "What comes out"), "docs/daily-use.md", "outputs.md"),
            "## Maps\n",
            "The value of `param-` in the name, and the interval an estimate is kept in (S0 relative to the "
            "signal at the lowest b-value).\n",
            table(("param", "symbol", "meaning", "unit", "bounds"), maps),
            "## Flags of voxels { #flags }\n",
            "`*_desc-ivimflags_dseg.nii.gz` holds one code per voxel: the first reason that holds; 0 where "
            "none does and outside of the mask.\n",
            table(("code", "name", "meaning"), flags),
            "## Quality of a run { #quality }\n",
            "Columns of `*_desc-ivim_qc.tsv`, one row per run.\n",
            column_table({column.name: column.words() for column in columns()}),
            "## Regions { #regions }\n",
            "Columns of `*_desc-regions_qc.tsv`, one row per region of the segmentations of `-d`.\n",
            column_table({column.name: column.words() for column in REGION_COLUMNS}),
            "## Volumes { #volumes }\n",
            "Columns of `*_desc-volumes_qc.tsv`, one row per volume of the source image.\n",
            column_table(VOLUME_COLUMNS),
            "## Motion\n",
            "Columns of `*_desc-motion_qc.tsv`, one row per volume.\n",
            column_table(MOTION_COLUMNS),
            "## Group { #group }\n",
            "Columns of `group_ivim.tsv`, one row per run and region.\n",
            column_table(table_columns()),
            "## Repeatability\n",
            "Columns of `group_repeatability.tsv`, one row per parameter and region that was measured "
            "repeatedly.\n",
            column_table({column.name: column.words() for column in REPEATABILITY_COLUMNS}),
        ]
    )


def api_page() -> str:
    """The public names of the package, of which mkdocstrings shows the docstrings."""
    names = sorted(name for name in sicnn_app.__all__ if name != "__version__")
    text = "# Python API\n\n[From Python](python.md) shows them at work.\n"
    return text + "".join(f"\n::: sicnn_app.{name}\n" for name in sorted(names, key=str.swapcase))


PAGES: dict[str, Callable[[], str]] = {
    "flags.md": flags_page,
    "outputs.md": outputs_page,
    "api.md": api_page,
    **{
        page: lambda source=source: (ROOT / source).read_text(encoding="utf-8")
        for source, page in BROUGHT.items()
        if not (DOCS / page).exists()
    },
}
"""Pages that are not files of ``docs``, and what makes them."""

# ---------------------------------------------------------------------------------------------------- Links


def repository_path(link: str, source: str) -> str | None:
    """Path in the repository that a link of a text leads to; None for addresses and places in the text."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:|/", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def copy_of(path: str) -> str:
    """Place in the site of a file of the repository; names that begin with a dot are not published."""
    return f"repository/{path.removeprefix('.')}.txt"


def site_link(link: str, source: str, page: str, repository: str = "") -> str:
    """The link as the site needs it.

    Parameters
    ----------
    link : str
        As it stands in the text: relative to ``source``.
    source : str
        Path of the text in the repository.
    page : str
        Path of the page in the site's sources.
    repository : str
        Address of the repository; without one the site has copies of the files that its pages name.
    """
    target = repository_path(link, source)
    if target is None:
        return link
    anchor = "".join(link.partition("#")[1:])
    if target in BROUGHT:
        target = BROUGHT[target]
    elif target.startswith("docs/"):
        folder = (ROOT / target).is_dir()
        target = target.removeprefix("docs/")
        # A folder is shown by its page of the same name.
        target += f"/{posixpath.basename(target)}.md" if folder else ""
    elif repository:
        return (
            f"{repository.rstrip('/')}/{'tree' if (ROOT / target).is_dir() else 'blob'}/HEAD/{target}{anchor}"
        )
    else:
        target = copy_of(target)
    return posixpath.relpath(target, posixpath.dirname(page) or ".") + anchor


def rewritten(text: str, source: str, page: str, repository: str = "") -> str:
    """A text with its links as the site needs them: see :func:`site_link`, with titles for names of files."""

    def titled(match: re.Match[str]) -> str:
        path = ROOT / (repository_path(match[1], source) or "")
        heading = path.is_file() and re.match(r"# (.+)\n", path.read_text(encoding="utf-8"))
        return f"[{heading[1]}]({match[1]})" if heading else match[0]

    text = NAMED_BY_FILE.sub(titled, text)
    return LINK.sub(lambda match: site_link(match.group(), source, page, repository), text)


def source_of(page: str) -> str:
    """Path in the repository of the text of a page."""
    origins = {page: source for source, page in BROUGHT.items() if not (DOCS / page).exists()}
    return origins.get(page, f"docs/{page}")


def page_text(page: str, text: str, repository: str = "") -> str:
    """The Markdown of a page as the site has it."""
    text = rewritten(text, source_of(page), page, repository)
    if page == "architecture.md":
        text = re.sub(r"```mermaid\n.*?```", lambda _: drawing_svg(), text, flags=re.DOTALL)
    file = ROOT / "CONTRIBUTING.md"
    if CONTRIBUTING in text and file.exists():
        words = re.sub(r"\A# .*\n", "", file.read_text(encoding="utf-8"))
        text = text.replace(CONTRIBUTING, rewritten(words, file.name, page, repository))
    return text


def named_files() -> dict[str, str]:
    """Text of every file outside ``docs`` that a page names, by its path; that of a folder is a list."""
    sources = [ROOT / source for source in BROUGHT] + list(DOCS.rglob("*.md"))
    found = {}
    for source in filter(Path.exists, sources):
        for link in LINK.findall(source.read_text(encoding="utf-8")):
            target = repository_path(link, source.relative_to(ROOT).as_posix())
            if target is None or target in BROUGHT or target.startswith("docs/"):
                continue
            path = ROOT / target
            if path.is_dir():
                found[target] = "\n".join(sorted(item.name for item in path.iterdir())) + "\n"
            elif path.exists():
                found[target] = path.read_text(encoding="utf-8")
    return found


# -------------------------------------------------------------------------------------------- Architecture


def package_docstrings() -> dict[str, str]:
    """Docstring of every package of the app, and of the app itself as ``sicnn_app``."""
    top = Path(sicnn_app.__file__).parent
    return {
        path.parent.name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for path in [top / "__init__.py", *sorted(top.glob("*/__init__.py"))]
    }


def permissions() -> dict[str, set[str]]:
    """Package -> packages that it says it may import, besides what every module may."""
    texts = package_docstrings()
    anyone = set(everywhere())
    return {
        name: set(re.findall(r"``(\w+)``", text.partition("May import")[2])) - anyone
        for name, text in texts.items()
        if name not in anyone | {"sicnn_app"}
    }


def everywhere() -> list[str]:
    """What every module may import."""
    text = package_docstrings()["sicnn_app"].partition("Every module may import")[2]
    return re.findall(r"``(\w+)``", text.partition("They import")[0])


def arrows() -> dict[str, list[str]]:
    """Package -> packages it may import, without those that it reaches through others anyway."""
    allowed = permissions()

    def reached(name: str) -> set[str]:
        return allowed[name] | {far for near in allowed[name] for far in reached(near)}

    return {
        name: sorted(near - {far for other in near for far in reached(other)})
        for name, near in allowed.items()
    }


def heights() -> dict[str, int]:
    """Package -> most arrows from it down to one that imports no other."""
    allowed = permissions()

    def height(name: str) -> int:
        return max((height(below) + 1 for below in allowed[name]), default=0)

    return {name: height(name) for name in sorted(allowed)}


def drawing() -> str:
    """The packages as a flow chart for Mermaid."""
    lines = [f"    {name} --> {' & '.join(below)}" for name, below in arrows().items() if below]
    return "\n".join(["```mermaid", "flowchart TD", *lines, f'    every["{", ".join(everywhere())}"]', "```"])


def package_table() -> str:
    """The packages from the top down: what each is for, and what it may import."""
    texts, allowed = package_docstrings(), permissions()
    order = sorted(allowed, key=lambda name: (-heights()[name], name))
    rows = (
        (
            f"`{name}`",
            " ".join(texts[name].split("\n\n")[0].split()).replace("*", r"\*"),
            ", ".join(sorted(allowed[name])) or "no other",
        )
        for name in order
    )
    return table(("package", "for", "may import"), rows).rstrip()


WIDTH, STEP, BOX, LINE = 150, 78, 118, 36
"""Of the drawing, in its units: from column to column, from row to row, width and height of a box."""


def columns_of_drawing() -> dict[str, int]:
    """Column of every package: the way of the data is the second, what stands beside it goes around it."""
    height, below = heights(), arrows()
    spine = [max(height, key=lambda name: height[name])]
    while below[spine[-1]]:
        spine.append(max(below[spine[-1]], key=lambda name: height[name]))
    found, taken = dict.fromkeys(spine, 1), {}
    for name in sorted(height.keys() - spine, key=lambda name: (-height[name], name)):
        free = taken.setdefault(height[name], [0] if height[name] > 1 else [2])
        found[name] = free[-1]
        free.append(free[-1] + 1 if free[-1] else 2)
    return found


def drawing_svg() -> str:
    """The same flow chart as a picture that needs no script."""
    column, height = columns_of_drawing(), heights()
    top = max(height.values())
    boxes = {
        name: (WIDTH * column[name] + WIDTH // 2, STEP * (top - height[name]) + LINE // 2 + 2)
        for name in height
    }
    parts = []
    for name, below in arrows().items():
        x, y = boxes[name]
        for other in below:
            to_x, to_y = boxes[other]
            if x != to_x and height[name] - height[other] > 1:
                side = x + (BOX if to_x > x else -BOX) // 2
                way = f"M{side} {y} H{to_x} V{to_y - LINE // 2 - 2}"
            else:
                way = f"M{x} {y + LINE // 2} L{to_x} {to_y - LINE // 2 - 2}"
            parts.append(f'<path d="{way}" marker-end="url(#head)"/>')
    wide = WIDTH * (max(column.values()) + 1)
    last = STEP * (top + 1) + LINE // 2 + 2
    labels = {name: (x, y, BOX) for name, (x, y) in boxes.items()}
    labels[", ".join(everywhere())] = (wide // 2, last, wide - 2 * (WIDTH - BOX))
    for text, (x, y, width) in labels.items():
        parts.append(
            f'<rect x="{x - width // 2}" y="{y - LINE // 2}" width="{width}" height="{LINE}" rx="5"/>'
        )
        parts.append(f'<text x="{x}" y="{y + 5}">{text}</text>')
    return (
        f'<div class="drawing"><svg viewBox="0 0 {wide} {last + LINE // 2 + 2}" role="img" '
        'aria-label="Packages of the app and what they may import; the table below says the same">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>{"".join(parts)}</svg></div>'
    )


def with_made_parts(text: str) -> str:
    """The page on the architecture with its drawing and its table as they are now."""
    for name, made in (("drawing", drawing()), ("packages", package_table())):
        pattern = rf"(<!-- made: {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(
            pattern, lambda match, made=made: f"{match[1]}\n{made}\n{match[2]}", text, flags=re.DOTALL
        )
    return text


# ------------------------------------------------------------------------------------- Called by mkdocs


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are made, and copies of files where no repository is known."""
    from mkdocs.structure.files import File

    for page, make in PAGES.items():
        files.append(File.generated(config, page, content=make()))
    for path, text in ({} if config.repo_url else named_files()).items():
        files.append(File.generated(config, copy_of(path), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Links, and what a page takes over from elsewhere."""
    return page_text(page.file.src_uri, markdown, config.repo_url or "")


if __name__ == "__main__":
    made_page = DOCS / "architecture.md"
    made_page.write_text(with_made_parts(made_page.read_text(encoding="utf-8")), encoding="utf-8")
