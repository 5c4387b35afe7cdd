"""Networks of your own, as docs/networks.md describes them."""
