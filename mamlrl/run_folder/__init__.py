"""What a run leaves behind: its folder, checkpoints, metrics, TensorBoard events and figures."""
