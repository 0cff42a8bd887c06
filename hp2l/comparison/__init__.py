"""Ways of diagnosing beside one another on the same studies: score tables in, one JSON-able comparison out.

| module | its part |
|---|---|
| `scores`, `score_files`, `alignment` | score tables, their files, and that they may be compared |
| `truth`, `thresholds`, `calibrated` | what is true, and what validation decides |
| `measured`, `resampling` | every number under every resample |
| `level_section`, `paired`, `tree_errors`, `decision`, `curves`, `notes` | the sections of the result |
| `slices`, `efficiency`, `leaks` | groups of patients, fewer labels, and whether the result is too good |
"""
