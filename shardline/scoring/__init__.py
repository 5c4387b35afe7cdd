"""How good a model is: the metrics that a network may be judged by, and their pictures."""
