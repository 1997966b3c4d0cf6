"""Raw layouts of real data sets: names of files and ids, and tables with the real headers."""

from __future__ import annotations

from longview.data.phantom.layouts.base import Layout
from longview.data.phantom.layouts.chexpert import ChexpertLayout
from longview.data.phantom.layouts.cxr_lt import CxrLt2023, CxrLt2024
from longview.data.phantom.layouts.cxr_lt_2026 import CxrLt2026Layout
from longview.data.phantom.layouts.mimic import MimicLayout
from longview.data.phantom.layouts.nih import NihLayout
from longview.data.phantom.layouts.nih_google import NihGoogleLayout
from longview.data.phantom.layouts.openi import OpenILayout
from longview.data.phantom.layouts.padchest import PadChestLayout
from longview.data.phantom.layouts.rsna import RsnaLayout
from longview.data.phantom.layouts.vinbig import VinBigLayout
from longview.data.phantom.layouts.vindr import VinDrLayout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        NihLayout(),
        NihGoogleLayout(),
        CxrLt2023(),
        CxrLt2024(),
        CxrLt2026Layout(),
        ChexpertLayout(),
        MimicLayout(),
        VinBigLayout(),
        VinDrLayout(),
        PadChestLayout(),
        RsnaLayout(),
        OpenILayout(),
    )
}
"""Name on the command line -> layout."""
