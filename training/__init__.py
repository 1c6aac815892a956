"""Makes models offline: reads films, splits by patient, trains, evaluates by folds, exports. See `training.train`."""
