"""Reports: what an experiment found, as one file for people: the answer, its numbers, and how to repeat it."""

from service.report.content import Number, compose, tables
from service.report.document import Document
from service.report.html import as_html
from service.report.markdown import as_markdown

__all__ = ["Document", "Number", "as_html", "as_markdown", "compose", "tables"]
