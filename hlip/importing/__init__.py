"""Others' ways of laying out data -> a manifest."""
