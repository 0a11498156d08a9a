"""What a backbone is worth: features, collapse, few-shot probes, statistics. Never imports a method."""
