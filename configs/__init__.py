"""The shipped configurations: one YAML a published run."""
