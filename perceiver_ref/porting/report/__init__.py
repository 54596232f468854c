"""A report that a person can read: a verdict, how the error grows from point to point, and where it begins.

contents   what it shows
picture    the error of an array, position by channel
page       the HTML page of it
"""

from .contents import Excerpt, Report, ReportParameter, ReportPoint, excerpt, value_text
from .page import report, write_report
from .picture import Picture, picture

__all__ = [
    "Excerpt",
    "Picture",
    "Report",
    "ReportParameter",
    "ReportPoint",
    "excerpt",
    "picture",
    "report",
    "value_text",
    "write_report",
]
