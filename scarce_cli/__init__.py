"""scarce: pretrain on unlabelled chest X-rays with one GPU, and measure what it is worth with few labels."""

__version__ = "0.1.0"
