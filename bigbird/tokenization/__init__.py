"""Text to token ids and back, with offsets of the original text: tokenizer, its files, SentencePiece models."""
