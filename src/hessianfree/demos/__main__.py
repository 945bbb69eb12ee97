"""`python -m hessianfree.demos NAME [NAME=VALUE ...]`: a demo without the installed script."""

import sys

from hessianfree.console.main import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]])
