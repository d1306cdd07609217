"""The site of these pages: `make docs`, from the repository's own Markdown files.

The root of the repository is the source, so that a link between two files is the same here
and on a code host. Nothing is loaded from another host.
"""

import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import vae_sweep  # noqa: E402

project = "vae-sweep"
author = "the vae-sweep authors"
copyright = f"2026 {author}"
version = release = vae_sweep.__version__
html_title = f"vae-sweep {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md"),
    *("analysis/README.md", "analysis/*.ipynb", "experiments/README.md"),
    *("benchmarks/README.md", "tests/README.md", "tests/golden/README.md"),
]
USE = (
    "reading",
    "options",
    "images",
    "running",
    "scaling",
    "python",
    "extending",
    "logging",
    "api",
)
LISTED = {  # caption -> pages of the sidebar
    "Use": [f"docs/{name}" for name in USE],
    "Read": ["analysis/README", "experiments/README", "benchmarks/README"],
    "Project": ["CONTRIBUTING", "SECURITY", "CHANGELOG", "tests/README"],
}
LISTED["Read"] += sorted(
    f"docs/{page.stem}" for page in (ROOT / "docs").glob("*.md") if page.stem not in USE
)
CONTENTS = "".join(
    f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
    for caption, pages in LISTED.items()
)
NOTEBOOKS = "\n\n```{toctree}\n:hidden:\n:glob:\n\nquickstart\n*\n```\n"

html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_extra_path = ["calculator.html"]
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]
nb_execution_mode = "off"  # they are committed as `make study` renders them
nb_merge_streams = True
default_role = "code"  # `x` in a docstring is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Appends what the sidebar lists, which a code host would show as text."""
    source[0] += {
        root_doc: CONTENTS,
        "analysis/README": NOTEBOOKS,
        "tests/README": "\n\n```{toctree}\n:hidden:\n\ngolden/README\n```\n",
    }.get(name, "")


def open_pages(app: Sphinx, tree: nodes.document) -> None:
    """Lets links to the calculator open it, where they would offer it for download."""
    depth = app.env.docname.count("/")
    for link in list(tree.findall(download_reference)):
        if link["reftarget"].endswith("calculator.html"):
            target = "../" * depth + "calculator.html"
            link.replace_self(nodes.reference("", "", *link.children, refuri=target))


def name_front_page(app: Sphinx, failed: Exception | None) -> None:
    """The front page is README.html, which a server does not look for."""
    if failed is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_contents)
    app.connect("doctree-read", open_pages)
    app.connect("build-finished", name_front_page)
