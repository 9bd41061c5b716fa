"""A Sphinx extension: equations as MathML, which browsers draw themselves, without a script.

The converter is docutils' own. ``html_math_renderer = "mathml"`` selects it.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def converted(node: nodes.Element, *, display: bool) -> str:
    """MathML of a node's TeX; a warning, and the TeX itself, where it cannot be converted."""
    tex = node.astext().strip()
    try:
        return str(tex2mathml(tex, as_block=display))
    except MathError as error:
        logger.warning("equation %r: %s", tex, error, location=node)
        return f"<code>{tex.replace('&', '&amp;').replace('<', '&lt;')}</code>"


def visit_inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(converted(node, display=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math" tabindex="0">{converted(node, display=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
