"""Accuracy, calibration and robustness of trained models."""
