"""For all tests: `env.execute()` runs in the test's process. What tests a cluster says so itself."""

from __future__ import annotations

import os

pytest_plugins = ["s3_fixtures"]
"""tests/services"""

os.environ.setdefault("PENSTOCK__EXECUTION__TARGET", "local")
