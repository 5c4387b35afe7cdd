"""What everything stands on: errors, atomic files, digests, threads, progress. The standard library and BLAKE3."""
