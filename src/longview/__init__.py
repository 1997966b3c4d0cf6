"""Long-tailed, multi-label, multi-view chest X-ray classification.

Shape letters, used with one meaning in every docstring and shape comment:

* ``B`` studies in a batch, ``N`` images in a batch (all views packed, no padding), ``L`` labels
* ``C`` channels, ``H`` and ``W`` height and width, ``h`` and ``w`` the same on a feature map
* ``T`` tokens, ``D`` width of a token

Label values: 1 present, 0 absent, a value in (0, 1) soft (pseudo label or share of readers), NaN: this
source says nothing about this label. Every loss and every metric masks NaN.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

__version__ = version("longview")

VIEWS = ("PA", "AP", "lateral", "unknown")
"""View types; a view's code in :attr:`Batch.view` is its position here."""


class InputError(ValueError):
    """A mistake in what a user gave: the message names the file, row, option or value, and the remedy.

    The command line prints it as one line, without a traceback, and exits with code 2.
    """


class StudyKey(NamedTuple):
    """Who a row of a prediction belongs to; `image_id` is empty where a row stands for a whole study."""

    patient_id: str
    study_id: str
    image_id: str


class Batch(TypedDict):
    """What the data side hands to a task: the real views of B studies, packed.

    * ``images`` (N, 1, H, W) uint8
    * ``study`` (N,) int64: the row of ``target`` that an image belongs to
    * ``view`` (N,) int64: position in :data:`VIEWS`
    * ``target`` (B, L) float32, NaN where unknown
    * ``ids``: B study keys, in the order of ``target``
    * ``features`` (N, C, h, w), only from a feature cache: what a frozen encoder makes of the images, which are
      then left out, ``images`` being (N, 1, 0, 0)
    * ``store`` (B,) int64, only in evaluation on several stores: the number of the store that a study is from
    """

    images: Tensor
    study: Tensor
    view: Tensor
    target: Tensor
    ids: list[StudyKey]
    features: NotRequired[Tensor]
    store: NotRequired[Tensor]
