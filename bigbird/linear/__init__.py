"""Matrix products: laid out in advance for inference (`packed`), in memory that is kept (`memory`), with gradients for
training (`training`)."""
