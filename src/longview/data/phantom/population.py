"""Who has what: patients, their studies, the findings of each with their severity, and which films were taken.

Each finding has a liability, a standard normal number: a weighted sum of factors that findings share and of a part
of its own. It is present where the liability exceeds the quantile that belongs to its prevalence (a Gaussian
copula), so that prevalences are as stated while findings with common factors come together: heart, effusion and
edema through `congestion`, opacity and consolidation through `infection`. All parts change from study to study as
first-order autoregressions, some hardly (a nodule), some fast (edema); the severity is how far the liability lies
beyond the threshold, so findings come, grow, shrink and go.

A study's labels are what its own films show (see :mod:`longview.data.phantom.study`): a report cannot name a
nodule behind the heart when no lateral film was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from longview.data.phantom.body import Body
from longview.data.phantom.finding import Finding
from longview.data.phantom.findings import FINDINGS, Case

FACTORS = {"acuity": 0.55, "congestion": 0.85, "infection": 0.45, "trauma": 0.75, "age": 1.0, "smoke": 1.0}
"""Factors that findings share, with their correlation between consecutive studies of a patient."""

VIEW_COUNTS = (0.45, 0.46, 0.08, 0.01)
"""Share of studies with 1 to 4 images; CXR-LT 2024's training set has 0.446, 0.458, 0.087 and 0.009."""

_PATTERNS: dict[int, tuple[tuple[float, tuple[str, ...]], ...]] = {
    2: ((0.86, ("PA", "lateral")), (0.06, ("AP", "lateral")), (0.08, ("AP", "AP"))),
    3: ((0.70, ("PA", "lateral", "lateral")), (0.20, ("PA", "PA", "lateral")), (0.10, ("AP", "AP", "AP"))),
    4: ((0.80, ("PA", "PA", "lateral", "lateral")), (0.20, ("AP", "PA", "lateral", "lateral"))),
}
"""Which films a study of two, three or four images has, with their shares."""

_PORTABLE = 0.88  # share of one-image studies that are AP films taken in bed
_MAX_STUDIES = 8  # of one patient
_MEAN_STUDIES = 3.0  # CXR-LT 2024: 155,823 studies of 45,480 patients = 3.4

_NORMAL = NormalDist()


@dataclass(frozen=True)
class StudyPlan:
    """All that is needed to draw one study.

    Args:
        seed: Seed of the whole phantom.
        patient: Number of the patient, from 0.
        number: Number of the study of this patient, from 0.
        age: Years.
        female: Sex.
        body: The chest, already with the shape that the findings give it.
        healthy: The same chest without findings.
        views: Films taken, out of `PA`, `AP` and `lateral`.
        findings: What there is to see.
    """

    seed: int
    patient: int
    number: int
    age: int
    female: bool
    body: Body
    healthy: Body
    views: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def portable(self) -> bool:
        """Whether the patient lay in bed: all films are AP."""
        return all(view == "AP" for view in self.views)

    def with_findings(self, findings: Sequence[Finding]) -> StudyPlan:
        """The same study with other findings, down to its noise."""
        return replace(self, findings=tuple(findings), body=_reshape(self.healthy, findings))

    def without(self, label: str) -> StudyPlan:
        """The same study without one finding."""
        return self.with_findings([finding for finding in self.findings if finding.label != label])


def study_counts(studies: int, seed: int) -> list[int]:
    """How many studies each patient has, so that they are `studies` together.

    The first patients of a larger phantom are those of a smaller one, as long as it has a few dozen studies.
    """
    limit = min(_MAX_STUDIES, max(1, studies // 6))  # so that even a dozen studies are of several patients
    rng = np.random.default_rng([seed, 1])
    counts: list[int] = []
    total = 0
    while total < studies:
        counts.append(min(int(rng.geometric(1 / _MEAN_STUDIES)), limit, studies - total))
        total += counts[-1]
    return counts


def plan_patient(seed: int, patient: int, count: int, frontal_only: bool = False) -> list[StudyPlan]:
    """Plan all studies of a patient.

    Args:
        seed: Seed of the whole phantom.
        patient: Number of the patient, from 0.
        count: How many studies; the first ones do not depend on it.
        frontal_only: Each study has its first frontal film only, as in data sets without lateral ones.
    """
    rng = np.random.default_rng([seed, patient, 2])
    female = bool(rng.random() < 0.48)
    factors = {name: _walk(rng, _MAX_STUDIES, lasting) for name, lasting in FACTORS.items()}
    own = {label: _walk(rng, _MAX_STUDIES, spec.lasting) for label, spec in FINDINGS.items()}
    age = int(np.clip(round(57 + 16 * float(factors["age"][0])), 18, 94))
    body = Body.draw(rng, age, female, (seed, patient))
    breath, bed = rng.normal(0, 0.016, _MAX_STUDIES), rng.standard_normal(_MAX_STUDIES)
    films = rng.random((_MAX_STUDIES, 2))
    plans = []
    for number in range(count):
        views = _views(0.6 * float(factors["acuity"][number]) + 0.8 * float(bed[number]), films[number])
        portable = all(view == "AP" for view in views)
        if frontal_only:
            views = views[:1]
        findings = _findings(seed, patient, number, {n: float(f[number]) for n, f in factors.items()}, own, portable)
        healthy = replace(body, dome=body.dome + float(breath[number]) - (0.035 if portable else 0.0))
        years = min(age + number // 2, 95)
        plans.append(
            StudyPlan(seed, patient, number, years, female, _reshape(healthy, findings), healthy, views, findings)
        )
    return plans


def _walk(rng: np.random.Generator, steps: int, lasting: float) -> npt.NDArray[np.float64]:
    """A standard normal autoregression (steps,) whose neighbours correlate by `lasting`."""
    values = rng.standard_normal(steps)
    fresh = np.sqrt(1 - lasting**2)
    for step in range(1, steps):
        values[step] = lasting * values[step - 1] + fresh * values[step]
    return values


def _views(acuity: float, draws: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Films of a study: the sicker, the likelier a single one, taken in bed."""
    rank = 1 - _NORMAL.cdf(acuity)
    count = 1 + int(np.searchsorted(np.cumsum(VIEW_COUNTS)[:-1], rank, side="right"))
    if count == 1:
        return ("AP",) if draws[0] < _PORTABLE else ("PA",)
    patterns = _PATTERNS[count]
    index = int(np.searchsorted(np.cumsum([share for share, _ in patterns])[:-1], draws[1], side="right"))
    return patterns[index][1]


def _findings(
    seed: int, patient: int, number: int, factors: dict[str, float], own: dict[str, npt.NDArray[np.float64]],
    portable: bool,
) -> tuple[Finding, ...]:  # fmt: skip
    """What a patient has at one study."""
    result: list[Finding] = []
    for index, (label, spec) in enumerate(FINDINGS.items()):
        weights = spec.weights
        rest = (1 - sum(weight**2 for weight in weights.values())) ** 0.5
        liability = rest * float(own[label][number]) + sum(w * factors[name] for name, w in weights.items())
        beyond = 1 - _NORMAL.cdf(liability)
        if beyond >= spec.prevalence:
            continue
        severity = 1 - beyond / spec.prevalence
        # its own generator: the same place in every study, and other findings do not move when one goes
        rng = np.random.default_rng([seed, patient, 3, index])
        choices = spec.choose(Case(rng, severity, portable))
        for part, (kind, side, shown) in enumerate(choices):
            result.append(Finding(label, kind, side, severity, shown, (seed, patient, 4, index, part)))
    return tuple(result)


def _reshape(body: Body, findings: Sequence[Finding]) -> Body:
    """The chest with the shape that its findings give it."""
    for finding in findings:
        reshape = FINDINGS[finding.label].reshape
        if reshape is not None:
            body = reshape(body, finding)
    return body
