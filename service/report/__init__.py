"""Reports: the results of an experiment as one document, with its figure, its statistics, and how to reproduce it."""

from service.report.content import compose, tables
from service.report.document import Document
from service.report.html import as_fragment, as_html
from service.report.latex import as_latex
from service.report.latex_comparison import comparison_as_latex
from service.report.latex_confusion import confusion_as_latex, normalized_by
from service.report.markdown import as_markdown

__all__ = [
    "Document",
    "as_fragment",
    "as_html",
    "as_latex",
    "as_markdown",
    "comparison_as_latex",
    "compose",
    "confusion_as_latex",
    "normalized_by",
    "tables",
]
