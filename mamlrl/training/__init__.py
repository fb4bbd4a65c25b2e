"""Meta-training: one iteration, the loop, the run around it, interrupts, memory."""
