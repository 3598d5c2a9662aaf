"""Sphinx: `make docs` builds with warnings as errors."""

import importlib.metadata
import pkgutil

import jaxsparse

project = "jaxsparse"
author = "The jaxsparse authors"
copyright = author
release = version = importlib.metadata.version("jaxsparse")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_nb",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"jaxsparse {release}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are executed by the test suite

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # the fields of a NamedTuple once, from its docstring


def _list_modules(app, docname, source):
    """Appends every public module to the page `api`, so that none can be forgotten."""
    if docname == "api":
        walk = pkgutil.walk_packages(jaxsparse.__path__, "jaxsparse.")
        names = [module.name for module in walk if "._" not in module.name]
        block = "\n\n## {0}\n\n```{{eval-rst}}\n.. automodule:: {0}\n   :members:\n```"
        source[0] += "".join(block.format(name) for name in names)


def _skip_field(app, what, name, obj, skip, options):
    """Leaves out what a NamedTuple writes about a field by itself: "Alias for field number 0"."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):
    app.connect("autodoc-skip-member", _skip_field)
    app.connect("source-read", _list_modules)
