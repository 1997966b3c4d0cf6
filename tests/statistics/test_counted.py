"""Figures of thresholds and of calibration equal scikit-learn's and those of `calibrate`, in every replicate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from longview.calibration.figures import brier_score, calibration_error
from longview.statistics.counted import CUT, Summing, cut
from longview.statistics.figures import FIXED, all_figures, mean
from longview.statistics.resampling import Resamples


def data(seed, rows=80, labels=3, masked=0.15):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((rows, labels)).round(2)
    targets = (rng.random((rows, labels)) < probabilities).astype(float)
    targets[rng.random((rows, labels)) < masked] = np.nan
    targets[rng.random((rows, labels)) < masked] = 0.25
    return probabilities, targets, np.random.default_rng(seed + 1).integers(0, rows // 3, rows)


def summed(probabilities, targets, patients, thresholds, count=6):
    resamples = Resamples.draw(patients, count)
    work = Summing(probabilities, targets, thresholds, resamples)
    list(work)
    return work, resamples


@given(st.integers(0, 1000), st.sampled_from([0.01, 0.5, 0.77, 0.999]))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_figures_of_a_threshold_equal_scikit_learns(seed, threshold):
    probabilities, targets, patients = data(seed)
    work, resamples = summed(probabilities, targets, patients, {FIXED: np.full(3, threshold)})
    found = cut(work.cells[FIXED])
    assert set(found) == set(CUT)
    for replicate in range(5):
        times = resamples.weights[replicate][resamples.cluster]
        for column in range(3):
            truth, value = np.repeat(targets[:, column], times), np.repeat(probabilities[:, column], times)
            hard = (truth == 0) | (truth == 1)
            truth, called = truth[hard], value[hard] >= threshold
            tn, fp, fn, tp = confusion_matrix(truth, called, labels=[0, 1]).ravel()
            for name, count in {"tn": tn, "fp": fp, "fn": fn, "tp": tp}.items():
                assert work.cells[FIXED][name][replicate, column] == count
            if not (tp + fn and tn + fp):
                assert np.isnan(found["f1"][replicate, column])
                continue
            assert found["f1"][replicate, column] == pytest.approx(f1_score(truth, called), abs=1e-9)
            assert found["mcc"][replicate, column] == pytest.approx(matthews_corrcoef(truth, called), abs=1e-9)
            assert found["specificity"][replicate, column] == pytest.approx(tn / (tn + fp), abs=1e-9)
            assert found["ppv"][replicate, column] == pytest.approx(tp / (tp + fp) if tp + fp else np.nan, nan_ok=True)
            assert found["npv"][replicate, column] == pytest.approx(tn / (tn + fn) if tn + fn else np.nan, nan_ok=True)


def test_calibration_figures_equal_those_of_calibrate_in_every_replicate():
    probabilities, targets, patients = data(4)
    work, resamples = summed(probabilities, targets, patients, {FIXED: np.full(3, 0.5)})
    for replicate in range(resamples.replicates):
        times = resamples.weights[replicate][resamples.cluster]
        some, truth = np.repeat(probabilities, times, axis=0), np.repeat(targets, times, axis=0)
        tolerance = 1e-12 if replicate == 0 else 1e-6  # replicates are summed in single precision
        np.testing.assert_allclose(work.ece[replicate], calibration_error(some, truth), atol=tolerance)
        np.testing.assert_allclose(work.brier[replicate], brier_score(some, truth), atol=tolerance)


def test_more_patients_than_a_block_holds_change_nothing(monkeypatch):
    probabilities, targets, patients = data(5, rows=300)
    whole, _ = summed(probabilities, targets, patients, {FIXED: np.full(3, 0.5)})
    monkeypatch.setattr("longview.statistics.counted._CLUSTERS_AT_ONCE", 7)
    parts, _ = summed(probabilities, targets, patients, {FIXED: np.full(3, 0.5)})
    np.testing.assert_array_equal(whole.cells[FIXED]["tp"], parts.cells[FIXED]["tp"])
    np.testing.assert_allclose(whole.ece, parts.ece, atol=1e-6)


def test_means_over_labels_leave_out_what_is_not_defined():
    values = np.array([[1.0, np.nan, 0.5], [np.nan] * 3])
    assert mean(values).tolist() == pytest.approx([0.75, np.nan], nan_ok=True)
    assert mean(values, np.array([[3.0, 9, 1], [1, 1, 1]])).tolist() == pytest.approx([0.875, np.nan], nan_ok=True)


@given(st.integers(0, 1000), st.sampled_from([0, 3]))
@settings(deadline=None, max_examples=20, derandomize=True)
def test_micro_and_weighted_figures_equal_scikit_learns(seed, drawn):
    from sklearn.metrics import average_precision_score, roc_auc_score

    probabilities, targets, patients = data(seed, masked=0)
    targets[:2] = [[0] * 3, [1] * 3]
    names = ["a", "b", "c"]
    found = all_figures(
        names, probabilities, targets, Resamples.draw(patients, drawn), {}, {FIXED: np.full(3, 0.5)}
    ).over_all()
    for average, end in (("micro", "_micro"), ("weighted", "_weighted")):
        expected = average_precision_score(targets, probabilities, average=average)
        assert found[f"ap{end}"].value == pytest.approx(expected, abs=1e-9)
        expected = roc_auc_score(targets, probabilities, average=average)
        assert found[f"auroc{end}"].value == pytest.approx(expected, abs=1e-9)
    called = probabilities >= 0.5
    assert found["f1"].value == pytest.approx(f1_score(targets, called, average="macro"), abs=1e-9)
    assert found["f1_micro"].value == pytest.approx(f1_score(targets, called, average="micro"), abs=1e-9)
