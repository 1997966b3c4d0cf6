"""Calibration: figures, maps from scores to probabilities, thresholds, and the file that keeps them."""
