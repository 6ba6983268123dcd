"""Using a finished model: loading, predictions, calibration, export; no training, no data sets."""
