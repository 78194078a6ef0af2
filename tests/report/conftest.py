"""What the tests of pages and pictures share."""

from tests.report.browser import chromium

__all__ = ["chromium"]
