"""Statistics for the comparison of diagnosers: pure functions on NumPy arrays.

| module | what it answers |
|---|---|
| `cases` | what all share: truth with gaps, weights, ratios |
| `delong` | variance, interval and paired test of AUCs, patients with several studies included |
| `calibration` | temperature, Platt and isotonic calibration, fitted on one split and applied to another |
| `reliability` | calibration error, Brier score and its parts, points of the reliability curve |
| `net_benefit` | decision curves |
| `operating` | sensitivity at a fixed specificity, predictive values, F1 |
| `hierarchy` | hierarchical precision, recall and F1, inconsistent paths, recovery, distance of mistakes |

Conventions, here and in `hlip.metrics`: a study is positive at `score >= threshold`; weights are (N, R), a column a resample; a
number that does not exist is NaN. Here, more strictly: a class, or a resample of it, without a positive study gives NaN everywhere,
never an exception. Several comparisons are corrected by `hlip.metrics.holm`.
"""
