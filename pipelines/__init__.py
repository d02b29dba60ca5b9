"""Offline applications on Ray Data: text to Parquet, scoring, fine-tuning. Imports nothing by itself."""
