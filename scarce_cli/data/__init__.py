"""From films on disk to augmented batches on the device."""
