"""Model files, the repository of loaded models, tokenizers."""
