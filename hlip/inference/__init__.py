"""A trained model at work: ask, explain, embed, evaluate."""
