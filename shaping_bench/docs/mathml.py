"""A Sphinx extension: equations as MathML, which browsers draw themselves, without a script.

The converter is docutils' own. ``html_math_renderer = "mathml"`` selects it.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ACCENTS = set("ˆˉ~˙¨→")

logger = logging.getLogger(__name__)


def mathml(tex: str, *, display: bool) -> str:
    """MathML of TeX.

    Raises:
      MathError: what the converter does not know.
    """
    ElementTree.register_namespace("", NAMESPACE)
    # XML knows five entities by name, HTML all that the converter writes.
    text = re.sub(r"&(?!(?:lt|gt|amp|quot|apos);)\w+;", lambda found: html.unescape(found[0]), tex2mathml(tex, display))
    root = ElementTree.fromstring(text)
    for element in root.iter(f"{{{NAMESPACE}}}mtable"):
        if "align" in element.get("class", ""):
            element.set("displaystyle", "true")
    for element in root.iter(f"{{{NAMESPACE}}}munderover"):
        # The converter puts the index of an accented letter below it, as if the accent were a limit.
        base, index, above = element
        if above.text in ACCENTS:
            accented = ElementTree.Element(f"{{{NAMESPACE}}}mover", {"accent": "true"})
            accented.extend([base, above])
            element.tag = f"{{{NAMESPACE}}}msub"
            element[:] = [accented, index]
    return ElementTree.tostring(root, encoding="unicode")


def converted(node: nodes.Element, *, display: bool) -> str:
    """MathML of a node's TeX; a warning, and the TeX itself, where it cannot be converted."""
    tex = node.astext().strip()
    try:
        return mathml(tex, display=display)
    except MathError as error:
        logger.warning("equation %r: %s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def visit_inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(converted(node, display=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math" tabindex="0">{converted(node, display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
