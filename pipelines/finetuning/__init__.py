"""Fine-tuning on Ray Train: labelled rows, tokens with targets, steps, evaluation, the model card."""
