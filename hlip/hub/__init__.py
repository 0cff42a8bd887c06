"""The Hugging Face hub's conventions, and model cards."""
