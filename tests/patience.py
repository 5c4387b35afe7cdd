"""How long tests wait for what must come before they call it missing: a busy machine takes its time."""

PATIENCE_S = 600
PATIENCE_MS = 1000 * PATIENCE_S
