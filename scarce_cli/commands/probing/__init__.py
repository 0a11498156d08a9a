"""What ``scarce probe`` does, from its options to a result: read, select, learn, test."""
