"""What a run directory holds, read for a person who watches the run. Nothing here writes, and nothing loads MindSpore.

| module | reads |
|---|---|
| `containment` | any file, but only below the run's own folder |
| `metrics` | `metrics.jsonl`, as far as it has grown since the last look |
| `downsampling` | – : fewer points that look alike |
| `ranks` | each rank's records: how it is, or how it ended |
| `rank_log` | a rank's log, page by page |
| `shard_map` | the strategy and the newest shard set: which rank holds which slice |
| `results` | the merge's record, `report.json`, the model's versions |
| `overview` | what there is, how far it is, what failed |
"""
