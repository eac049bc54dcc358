"""The documentation site: `scripts/docs` builds it.

The source folder is the repository's root, so that the relative links of every page (to README.md, to figures, to
notebooks) are the same here and where the repository is browsed.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs/_ext"))

from links import linkcode_resolve  # noqa: E402, F401

_project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
project, release = _project["name"], _project["version"]
html_title = project

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "generate",
    "links",
    "mathematics",
    "notebooks",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = ["docs/_*", "docs/generated/maps", "out", ".*", "**/.ipynb_checkpoints"]

# Markdown and notebooks: anchors of headings as on the code host; no cell is run here (scripts/docs has run some).
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https", "mailto", "source"]
myst_dmath_double_inline = True
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_render_markdown_format = "myst"
copybutton_prompt_text = ">>> |... "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

smartquotes = False  # it would make a dash of the two hyphens of an option

# Docstrings: `x` in them is code, as in Markdown.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["torch", "transformers"]
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_theme_options = {"source_edit_link": ""}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
