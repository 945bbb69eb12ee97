"""`python -m hessianfree`: the command line without the installed script."""

from hessianfree.console.main import app

if __name__ == "__main__":
    app()
