"""Matrix products: laid out in advance for inference (`packed`), with gradients for training (`training`)."""
