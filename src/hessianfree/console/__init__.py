"""The command line: `hessianfree COMMAND`, one file per command; `main` puts them together.

Nothing here imports JAX or numpy before a command needs them, so that `--help` answers at once.
"""
