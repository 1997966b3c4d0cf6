"""Training on k folds of the patients, each predicted by a model that never saw it."""
