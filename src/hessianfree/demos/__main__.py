"""`python -m hessianfree.demos NAME [ARGS]`: a demo without the installed script."""

from hessianfree.demos.command import main

if __name__ == "__main__":
    main()
