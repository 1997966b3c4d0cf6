"""Raw layouts of real data sets: names of files and ids, and tables with the real headers."""

from __future__ import annotations

from longview.data.phantom.layouts.base import Layout
from longview.data.phantom.layouts.chexpert import ChexpertLayout
from longview.data.phantom.layouts.cxr_lt import CxrLt2024
from longview.data.phantom.layouts.mimic import MimicLayout
from longview.data.phantom.layouts.nih import NihLayout
from longview.data.phantom.layouts.padchest import PadChestLayout
from longview.data.phantom.layouts.rsna import RsnaLayout
from longview.data.phantom.layouts.vinbig import VinBigLayout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        NihLayout(),
        CxrLt2024(),
        ChexpertLayout(),
        MimicLayout(),
        VinBigLayout(),
        PadChestLayout(),
        RsnaLayout(),
    )
}
"""Name on the command line -> layout."""
