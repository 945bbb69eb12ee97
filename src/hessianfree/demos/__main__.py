"""`python -m hessianfree.demos NAME [ARGS]`: a demo without the installed script."""

import sys

from hessianfree.demos import ALL
from hessianfree.demos.command import run

if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: python -m hessianfree.demos NAME [ARGS]; the demos are {', '.join(ALL)}")
    run(sys.argv[1], sys.argv[2:])
