"""Networks: the one-channel ResNet and the parts that methods put on it."""
