"""A laboratory for meta-gradients: how far each estimator is from the truth, and how noisy."""
