"""The documentation site: what is made from the app is complete, pages have a place and links a target.

Without mkdocs: the strict build itself is a stage of the checks.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import sicnn_app
from sicnn_app.cli import arguments, dicom, simulate
from sicnn_app.derivatives.qc import MOTION_COLUMNS
from sicnn_app.derivatives.quality import columns
from sicnn_app.group.columns import table_columns
from sicnn_app.group.repeats import COLUMNS as REPEATABILITY_COLUMNS
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import MAPS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ADDRESS = "https://example.org/sicnn-app"


class Loader(yaml.SafeLoader):
    """Of ``mkdocs.yml``, which takes values from the environment."""


Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node))


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(site) -> dict[str, str]:
    """Text of every page as it stands in its source, by its path in the site."""
    written = {
        path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")
    }
    made = {page: make() for page, make in site.PAGES.items()}
    assert written.keys() & made.keys() == set()
    return written | made


def leaves(node: object) -> Iterator[str]:
    """Pages of a navigation."""
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from leaves(child)


def test_every_page_has_one_place_in_the_navigation(config, pages):
    named = list(leaves(config["nav"]))
    assert len(set(named)) == len(named)
    assert set(named) == set(pages)


@pytest.mark.parametrize("repository", ["", ADDRESS])
def test_every_link_of_the_site_has_a_target(site, pages, repository):
    copies = {site.copy_of(path) for path in site.named_files()}
    lost = []
    for page, text in pages.items():
        for link in site.LINK.findall(site.page_text(page, text, repository)):
            path = link.partition("#")[0]
            if not path or re.match(r"[a-z]+:", link):
                continue
            target = (DOCS / page).parent.joinpath(path).resolve().relative_to(DOCS).as_posix()
            if target not in pages and target not in copies and not (DOCS / target).is_file():
                lost.append(f"{page}: {link}")
    assert lost == []


@pytest.mark.parametrize(
    ("link", "source", "repository", "expected"),
    [
        ("https://bids.org", "docs/hpc.md", ADDRESS, "https://bids.org"),
        ("#slurm", "docs/hpc.md", ADDRESS, "#slurm"),
        ("docker.md#mem", "docs/hpc.md", ADDRESS, "docker.md#mem"),
        ("../README.md#limits", "docs/hpc.md", "", "readme.md#limits"),
        ("docs/hpc.md", "README.md", "", "hpc.md"),
        ("speed", "docs/performance.md", "", "speed/speed.md"),
        ("../hpc/submit", "docs/hpc.md", "", "repository/hpc/submit.txt"),
        ("../hpc/submit", "docs/hpc.md", ADDRESS, f"{ADDRESS}/blob/HEAD/hpc/submit"),
        ("../hpc", "docs/hpc.md", f"{ADDRESS}/", f"{ADDRESS}/tree/HEAD/hpc"),
    ],
)
def test_a_link_is_rewritten(site, link, source, repository, expected):
    page = site.BROUGHT.get(source, source.removeprefix("docs/"))
    assert site.site_link(link, source, page, repository) == expected


def test_a_link_of_a_page_in_a_folder_is_rewritten(site):
    assert site.site_link("../../hpc/submit", "docs/speed/speed.md", "speed/speed.md") == (
        "../repository/hpc/submit.txt"
    )


@pytest.mark.parametrize("build", [arguments.build_parser, simulate.build_parser, dicom.build_parser])
def test_the_page_of_flags_has_every_flag_with_its_help(site, build):
    page = site.flags_page()
    for action in build()._actions:
        for flag in action.option_strings:
            assert f"`{flag}`" in page
    assert "%(default)" not in page
    assert "`--method` { #sicnn-app-method }\n\n`si-cnn`, `di-cnn`," in page


def test_a_link_named_by_a_file_gets_the_title_of_its_page(site):
    text = "see [docs/hpc.md](docs/hpc.md#slurm), [the page](docs/hpc.md), [parts.md](docs/ablation/parts.md)"
    assert site.rewritten(text, "README.md", "readme.md") == (
        "see [On a cluster](hpc.md#slurm), [the page](hpc.md), [parts.md](ablation/parts.md)"
    )


def test_the_page_of_outputs_has_every_map_flag_and_column(site):
    page = site.outputs_page()
    names = [spec.label for spec in MAPS] + [flag.name for flag in FLAGS]
    names += [column.name for column in columns()]
    names += [*MOTION_COLUMNS, *table_columns(), *(column.name for column in REPEATABILITY_COLUMNS)]
    assert [name for name in names if f"| `{name}` |" not in page] == []
    assert "_param-{f,d,dstar,s0,rmse}_dwimap.nii.gz" in page, "the files, from the page on daily use"


def test_the_page_of_the_python_api_has_every_public_name(site):
    shown = set(re.findall(r"^::: sicnn_app\.(\w+)$", site.api_page(), re.MULTILINE))
    assert shown == set(sicnn_app.__all__) - {"__version__"}


def test_the_drawing_of_the_architecture_is_what_packages_say_they_may_import(site):
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert site.with_made_parts(page) == page, "python docs/generate.py"
    assert "group --> report" in page and "```mermaid" in page


def test_the_picture_of_the_architecture_has_every_package_and_arrow(site):
    picture = site.page_text("architecture.md", (DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert "```mermaid" not in picture
    for name in site.permissions():
        assert f">{name}</text>" in picture
    assert picture.count("marker-end") == sum(map(len, site.arrows().values()))
    places = [(column, site.heights()[name]) for name, column in site.columns_of_drawing().items()]
    assert len(set(places)) == len(places), "one box lies over another"


def test_text_shows_as_it_is_in_a_cell(site):
    assert site.escaped("D* <b>\n a|b [x] `c` A_b") == r"D\* &lt;b&gt; a\|b \[x\] \`c\` A\_b"


@pytest.mark.parametrize("page", sorted(DOCS.glob("add-a-*.md")), ids=lambda path: path.stem)
def test_pages_on_adding_something_name_files_and_tests_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:sicnn_app|tests)/[\w/]+(?:\.py|/))`", text))
    assert named and [name for name in named if not (ROOT / name).exists()] == []
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_extension_points*.py"))
    for test in re.findall(r"`(test_\w+)`", text):
        assert f"def {test}(" in tests


def test_the_page_on_the_architecture_names_what_is_there():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:sicnn_app/)?([\w/]+\.py)`(?: `(\w+)`)?", text)
    assert len(named) > 15
    for path, name in named:
        (file, *_) = [root / path for root in (ROOT / "sicnn_app", ROOT) if (root / path).exists()]
        assert re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")), f"{path} {name}"
