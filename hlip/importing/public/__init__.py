"""Public data sets in their documented layouts -> a manifest; one file a set."""
