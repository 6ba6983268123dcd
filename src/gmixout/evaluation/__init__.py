"""From a model to a sentence one may say: accuracies, append-only records, selection, curves."""
