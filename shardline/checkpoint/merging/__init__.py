"""From a plan to a published file: assembled, written, proved, recorded; in parts too, and cut anew for other ranks."""
