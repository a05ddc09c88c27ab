"""Sphinx settings: python -m sphinx -W docs docs/_build"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from dreamerxl import __version__

project, author, copyright = "dreamerxl", "the dreamerxl authors", "the dreamerxl authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = ["gsplat"]
html_theme = "furo"
html_title = f"dreamerxl {version}"
html_favicon = "../dreamerxl/web/icon.svg"
exclude_patterns = ["_build"]
