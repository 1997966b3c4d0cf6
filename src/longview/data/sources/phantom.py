"""The phantom's raw folder, read with the parser of the data set whose layout it was drawn in."""

from __future__ import annotations

import json
from typing import ClassVar

import pandas as pd

from longview import InputError
from longview.data.sources.base import Source

_INFO = "phantom.json"  # marks a folder that `main.py phantom` has finished
LAYOUTS = ("nih", "cxr-lt-2024")
"""Sources whose layout a phantom may have."""


class Phantom(Source):
    """Drawn chests: synthetic, so free of any licence and of any patient.

    * **Counts**: as many studies as were asked for; views per study as in CXR-LT 2024.
    * **Labels**: 17 of CXR-LT 2024's (`configs/labels/phantom.yaml`), 35 % down to 0.7 %; a study is Normal where its
      films show none of the others.
    * **Split**: by patient, 70 % train, 10 % development, 20 % test, written in the layout's own way.
    * **Quirks**: about 3 % of the views are blank, as in MIMIC-CXR-JPG; boxes of all findings are in `boxes.csv`.

    The layout stands in `phantom.json`; any other tool may read the folder as that data set.
    """

    name: ClassVar[str] = "phantom"
    default_labels: ClassVar[str | None] = "phantom"

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Rows of the layout's own source.

        Raises:
            InputError: Where the folder is no finished phantom.
        """
        from longview.data.sources import open_source  # the package's table holds this module

        info = self.root / _INFO
        if not info.is_file():
            raise InputError(f"{self.root} is no phantom: it lacks {_INFO}. Draw one with main.py phantom --output DIR")
        try:
            layout = json.loads(info.read_text(encoding="utf-8"))["settings"]["layout"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{info} is damaged ({error!r}); draw the phantom again") from error
        if layout not in LAYOUTS:
            raise InputError(f"{info}: layout is {layout!r}, not {' or '.join(LAYOUTS)}; draw the phantom again")
        return open_source(layout, self.root, self.labels).rows()
