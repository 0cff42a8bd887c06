"""From raw text to sections and sentences, with nothing lost and nothing glued."""
