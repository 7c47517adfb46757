"""The HTML report of a subject or session, made from its derivatives alone."""

from sicnn_app.report.html import build_report
from sicnn_app.report.methods import citation_markdown, methods_text

__all__ = ["build_report", "citation_markdown", "methods_text"]
