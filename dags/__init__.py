"""The DAGs: parameters, order, nothing else."""
