"""A training as an MPIJob on Kubernetes: the operator, the API as it uses it, the manifest, and how far the job is."""
