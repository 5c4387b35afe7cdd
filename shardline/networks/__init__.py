"""The kit that networks are declared with, and what they may ask of whatever computes them. No MindSpore."""
