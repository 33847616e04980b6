"""Networks: mobile architectures by configuration, checkpoints, counts of parameters and MACs."""
