"""Files: whole or not at all, checksums, JSON, built-in configurations."""
