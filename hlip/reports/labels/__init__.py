"""Labels from reports by rule: names of classes, and cues that say whether they are there (NegEx)."""
