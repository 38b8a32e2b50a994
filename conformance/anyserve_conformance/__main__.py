"""python -m anyserve_conformance"""

import sys

from anyserve_conformance.cli import main

sys.exit(main())
