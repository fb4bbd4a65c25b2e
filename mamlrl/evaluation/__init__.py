"""How well trained policies adapt: held-out tasks, comparison of methods, published protocols."""
