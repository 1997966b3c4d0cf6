"""Raw layouts of real data sets: names of files and ids, and tables with the real headers."""

from __future__ import annotations

from longview.data.phantom.layouts.base import Layout
from longview.data.phantom.layouts.cxr_lt import CxrLt2024
from longview.data.phantom.layouts.nih import NihLayout

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NihLayout(), CxrLt2024())}
"""Name on the command line -> layout."""
