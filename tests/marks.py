"""Marks that several test modules share."""

import pytest

# Files that other tests left open are closed by the garbage collector at any time, and Python then warns.
no_warnings = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
