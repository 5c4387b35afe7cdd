"""How well a merged model predicts: `python evaluate.py MODEL.safetensors` prints its mean squared error, as JSON."""

import json
import sys

from safetensors.numpy import load_file
from train import samples

if __name__ == "__main__":
    model = load_file(sys.argv[1])
    inputs, targets = samples()
    predicted = inputs @ model["linear.weight"] + model["linear.bias"]
    print(json.dumps({"squared_error": float(((predicted - targets) ** 2).mean())}))
