"""The documents as a site: `make docs` builds it into build/site; links that lead nowhere are errors."""

project = "Shardline"
author = "the authors of Shardline"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Shardline"
html_show_copyright = False
nitpicky = True
