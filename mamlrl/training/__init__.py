"""Meta-training: the loop, the run around it, interrupts, memory, progress."""
