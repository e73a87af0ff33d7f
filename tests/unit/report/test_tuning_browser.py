"""The HTML report of `tune` in a headless Chromium: the table of nodes sorts and filters, and nothing is loaded."""

from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.unit.report.test_browser import browser, column, pytestmark, requests, sort_by
from tests.unit.report.tuning_documents import measure, tuned
from trtbuild.report.tuning import html

__all__ = ["browser", "pytestmark"]
