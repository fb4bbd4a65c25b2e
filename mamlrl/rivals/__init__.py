"""Algorithms designed for bandits and for tabular MDPs, which learned ones are compared with.

Each plays thousands of instances in lock step. They are those of Duan et al. (2016), "RL^2: Fast Reinforcement Learning
via Slow Reinforcement Learning", section 3, as far as the paper says what they are: docs/bandits.md lists what it
leaves open and how it was settled.
"""
