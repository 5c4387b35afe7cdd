"""The run whose strategy files, one a pipeline stage, are among the fixtures."""

GPT_IN_STAGES = {
    "network": "gpt",
    "device_target": "GPU",
    "pipeline_stages": 2,
    "layers": 3,
    "hidden_size": 32,
    "sequence_length": 16,
    "batch_size": 8,
    "tensor_parallel": 2,
    "optimizer": "AdamW",
    "enable_parallel_optimizer": True,
}
