"""Metrics by fastai's names: scikit-learn's scores of a whole set, errors of numbers, and overlaps of masks."""
