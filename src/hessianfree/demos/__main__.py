"""`python -m hessianfree.demos NAME [ARGS]`: the demo command without an installed script."""

from hessianfree.cli import run_demo

if __name__ == "__main__":
    run_demo()
