"""`python -m hybrid_ssm` is the console script `hybrid_ssm`."""
import sys

from hybrid_ssm.cli import main

sys.exit(main())
