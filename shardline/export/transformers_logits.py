"""What `transformers` computes with an exported folder: run by the interpreter that has it, and knows nothing of ours.

    PYTHON transformers_logits.py FOLDER SAMPLES.npy LOGITS.npy

FOLDER is loaded strictly, on the CPU, in float32; SAMPLES are token ids [N, positions]. The last line printed is a JSON
object with the versions of what computed. Exit code 3 where the folder does not load so, which one line on stderr
explains; 4 where a package is missing.
"""

import json
import sys
from typing import Any

NOT_STRICT, NO_PACKAGE = 3, 4


def main(folder: str, samples_file: str, logits_file: str) -> int:
    """Load, compute, write."""
    try:
        import numpy as np
        import torch
        import transformers
    except ImportError as error:
        print(f"{sys.executable} cannot import torch and transformers: {error}", file=sys.stderr)
        return NO_PACKAGE
    try:
        model, loading = transformers.GPT2LMHeadModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        print(f"transformers {transformers.__version__} refuses it: {error}", file=sys.stderr)
        return NOT_STRICT
    if problems := _not_strict(loading):
        print(f"transformers {transformers.__version__} found {problems}", file=sys.stderr)
        return NOT_STRICT
    model = model.to(torch.float32).eval()
    samples = torch.from_numpy(np.load(samples_file).astype(np.int64))
    with torch.no_grad():
        logits = [model(sample[None]).logits[0].numpy() for sample in samples]
    np.save(logits_file, np.stack(logits))
    print(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}))
    return 0


def _not_strict(loading: dict[str, Any]) -> str:
    """The names that the folder lacks, has too many, or has in other shapes."""
    found = {kind: sorted(map(str, loading.get(kind) or ())) for kind in ("missing_keys", "unexpected_keys")}
    found |= {kind: sorted(map(str, loading.get(kind) or ())) for kind in ("mismatched_keys", "error_msgs")}
    return "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names)}" for kind, names in found.items() if names)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
