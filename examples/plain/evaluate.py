"""How many samples a merged model classifies well: `python evaluate.py MODEL.safetensors` prints JSON."""

import json
import sys

import numpy as np
from safetensors.numpy import load_file
from train import samples

if __name__ == "__main__":
    model = load_file(sys.argv[1])
    inputs, labels = samples()
    hidden = np.maximum(inputs @ model["first.weight"] + model["first.bias"], 0)
    logits = hidden @ model["second.weight"] + model["second.bias"]
    print(json.dumps({"accuracy": float((logits.argmax(axis=1) == labels).mean())}))
