"""Outer steps: how a learner moves what it meta-learns."""
