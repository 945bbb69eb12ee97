"""`python -m hessianfree`: the command line without the installed script."""

from hessianfree.cli import app

if __name__ == "__main__":
    app()
