"""Few-shot evidence: what an encoder is worth with 1 to 50 labelled films of a finding, and beside which baselines."""
