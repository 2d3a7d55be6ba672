"""The lineage section of a report, which is filled when the result is published."""

import re
from html import escape

LINEAGE = re.compile(r"<!-- lineage -->.*?<!-- /lineage -->", re.DOTALL)


def add_lineage(html: str, facts: dict[str, str]) -> str:
    """Fill the lineage section of a report; a second call replaces its facts. Raises ValueError if there is none."""
    if not LINEAGE.search(html):
        raise ValueError("the page has no mark <!-- lineage -->; pass a page that evaluation.report.page wrote")
    rows = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(str(v))}</td></tr>\n" for k, v in facts.items())
    section = f'<section id="lineage">\n<h2>Lineage</h2>\n<table class="facts">\n{rows}</table>\n</section>\n'
    return LINEAGE.sub(lambda _: f"<!-- lineage -->\n{section}<!-- /lineage -->", html)
