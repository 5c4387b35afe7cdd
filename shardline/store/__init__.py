"""The model store: versions that never change, promotion, upload, and how long runs keep their slices."""
