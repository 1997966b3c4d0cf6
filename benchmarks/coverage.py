"""How often 95 % intervals hold the true AUROC and AP, with patients drawn whole and with rows drawn by themselves.

    uv run benchmarks/coverage.py                    # 300 data sets of each kind, 1,000 resamples

A data set has patients with several films, and a label of the patient. A film's score is normal around the label's
mean, with a part that all films of a patient share; the true AUROC follows from these, the true AP from four million
independent films of as many patients. An honest interval covers the truth in 95 % of data sets; with 300 data sets
the share is known to 2.5 % (two standard errors). The last columns are closed forms: DeLong's interval, which takes
films for independent, and Obuchowski's, which does not.

Last, the mean AP over ten labels from 30 % to 0.5 %: with few positives AP itself comes out too high, in resamples
more so, and percentile intervals of a long tail's mean cover too seldom.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

from longview.statistics.delong import AreaTest
from longview.statistics.figures import ranking_figures
from longview.statistics.resampling import Resamples

Array = npt.NDArray[Any]

NORMAL = NormalDist()


@dataclass(frozen=True)
class Design:
    """A kind of data set.

    Args:
        patients: Number of patients.
        films: Mean number of films of each, at least 1.
        prevalence: Share of patients with the label.
        shift: Distance of the means with and without the label.
        shared: Variance of the part of a score that a patient's films share, of a total of 1.
    """

    patients: int
    films: float
    prevalence: float
    shift: float
    shared: float

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Scores (n,), labels (n,) and patients (n,)."""
        films = 1 + rng.poisson(self.films - 1, self.patients)
        patient = np.repeat(np.arange(self.patients), films)
        label = (rng.random(self.patients) < self.prevalence)[patient].astype(float)
        own = rng.normal(0, np.sqrt(self.shared), self.patients)[patient]
        return self.shift * label + own + rng.normal(0, np.sqrt(1 - self.shared), len(patient)), label, patient

    @property
    def auroc(self) -> float:
        """The true AUROC: two normal scores of variance 1."""
        return NORMAL.cdf(self.shift / np.sqrt(2))

    def ap(self) -> float:
        """The true AP, to three digits or more."""
        rng = np.random.default_rng(123)
        label = (rng.random(4_000_000) < self.prevalence).astype(np.float32)
        return float(average_precision_score(label, self.shift * label + rng.normal(size=len(label))))


DESIGNS = {
    "a film per patient": Design(300, 1, 0.2, 1.2, 0.0),
    "4 films that resemble each other": Design(300, 4, 0.2, 1.2, 0.7),
    "4 films, label of 3 %": Design(1000, 4, 0.03, 1.5, 0.7),
}


def covered(design: Design, sets: int, count: int) -> dict[str, float]:
    """Share of data sets whose interval holds the truth, by method."""
    truth = {"auroc": design.auroc, "ap": design.ap()}
    held: dict[str, list[bool]] = {}
    for number in range(sets):
        scores, label, patient = design.draw(np.random.default_rng(number))
        for unit, clusters in (("patients", patient), ("rows", np.arange(len(patient)))):
            resamples = Resamples.draw(clusters, count, seed=number)
            found = ranking_figures(["x"], scores[:, None], label[:, None], resamples, {}).of_label("x")
            for figure, true in truth.items():
                interval = found[figure]
                for kind, low, high in (
                    ("percentile", interval.percentile_low, interval.percentile_high),
                    ("BCa", interval.low, interval.high),
                ):
                    held.setdefault(f"{figure} {unit} {kind}", []).append(low <= true <= high)
        for name, groups in (("DeLong", None), ("Obuchowski", patient)):
            area = AreaTest.of(scores[:, None], label, groups)
            held.setdefault(name, []).append(abs(area.auroc[0] - design.auroc) <= 1.96 * area.error(0))
    return {name: float(np.mean(found)) for name, found in held.items()}


LABELS = 10
RAREST = 0.005


def covered_mean(sets: int, count: int, patients: int) -> dict[str, float]:
    """Share of data sets whose interval of mAP holds the truth, and how much too high mAP comes out."""
    prevalence = np.geomspace(0.3, RAREST, LABELS)
    truth = np.mean([Design(0, 1, share, 1.5, 0).ap() for share in prevalence])
    names = [str(label) for label in range(LABELS)]
    held: dict[str, list[float]] = {"percentile": [], "BCa": [], "bias": []}
    for number in range(sets):
        rng = np.random.default_rng(number)
        patient = np.repeat(np.arange(patients), 2)
        label = (rng.random((patients, LABELS)) < prevalence)[patient].astype(float)
        own = rng.normal(0, np.sqrt(0.7), (patients, LABELS))[patient]
        scores = 1.5 * label + own + rng.normal(0, np.sqrt(0.3), label.shape)
        found = ranking_figures(names, scores, label, Resamples.draw(patient, count, number), {}).over_all()["map"]
        held["percentile"].append(found.percentile_low <= truth <= found.percentile_high)
        held["BCa"].append(found.low <= truth <= found.high)
        held["bias"].append(found.value - truth)
    return {name: float(np.mean(values)) for name, values in held.items()}


def main() -> None:
    """Print coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    for name, design in DESIGNS.items():
        begin = time.perf_counter()
        found = covered(design, options.sets, options.resamples)
        print(f"{name}: {options.sets} data sets, {time.perf_counter() - begin:.0f} s")
        for figure in ("auroc", "ap"):
            cells = [
                f"{unit} {kind} {100 * found[f'{figure} {unit} {kind}']:.1f} %"
                for unit in ("patients", "rows")
                for kind in ("percentile", "BCa")
            ]
            print(f"  {figure.upper():6}" + "   ".join(cells))
        print("  AUROC " + "   ".join(f"{form} {100 * found[form]:.1f} %" for form in ("Obuchowski", "DeLong")))
    for patients in (1000, 4000):
        found = covered_mean(options.sets, options.resamples, patients)
        print(
            f"mean AP of {LABELS} labels, the rarest {RAREST:.1%}, {patients:,} patients: percentile "
            f"{100 * found['percentile']:.1f} %   BCa {100 * found['BCa']:.1f} %   mAP too high by {found['bias']:.4f}"
        )


if __name__ == "__main__":
    main()
