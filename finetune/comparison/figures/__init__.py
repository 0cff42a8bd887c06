"""The comparison's figures, a module a section: a comparison (see `hp2l.comparison.compare`) goes in, one matplotlib figure comes out."""
