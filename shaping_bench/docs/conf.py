"""How Sphinx builds the site; ``make docs`` does it with warnings as errors.

Nothing of the built site is fetched when it is read: equations are MathML, fonts the reader's.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent.parent)]

from shaping_bench import __version__  # noqa: E402

project = "shaping-bench"
release = version = __version__
copyright = "the shaping-bench authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "fragments"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["__pycache__"]
suppress_warnings: list[str] = []

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = False

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
# Types of other packages have no page here, and the site is built without a network.
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jaxlib|numpy|np|pandas|collections|enum|typing|dataclasses)\..*"),
    ("py:mod", r"shaping_bench\..*"),  # of ours, only what one calls has a page
]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"shaping-bench {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "footer_icons": [],
}
highlight_language = "text"
pygments_style = "friendly"


def _colons(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Napoleon reads "A: B" as type and text where our docstrings mean a sentence: in what is returned
    and of attributes. It also takes two attributes on one line for one."""
    section = ""
    for k, line in enumerate(list(lines)):
        if line and not line.startswith(" "):
            section = line
        elif section == "Returns:" and lines[k - 1] == section:
            lines[k] = re.sub(r"^( +)", r"\1: ", line)
    several = re.compile(r"( +)(\w+(?:, \w+)+): (.*)")
    out: list[str] = []
    for line in lines:
        match = several.match(line)
        names = match[2].split(", ") if match and "Attributes:" in lines else []
        out += [f"{match[1]}{name}: {match[3]}" for name in names] if match and names else [line]
    lines[:] = out
    if what in ("attribute", "property", "data") and lines:
        lines[0] = f": {lines[0]}"


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _colons, priority=400)
