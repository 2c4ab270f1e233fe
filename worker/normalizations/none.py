"""No normalization, the control of an experiment."""

from typing import Literal

from worker.normalizations.normalization import NormalizationSpec


class NoNormalization(NormalizationSpec):
    """No normalization, as the control."""

    reference = "Zhang et al. 2019, arXiv 1901.09321, section 2"
    needs = "Needs a lower learning rate or a warm-up in deep networks."

    type: Literal["none"] = "none"
