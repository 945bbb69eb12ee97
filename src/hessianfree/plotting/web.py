"""Live plots of a run in a browser, by matplotlib's WebAgg: `hessianfree plot FILE --web`.

The server listens on this machine alone (127.0.0.1) and answers browsers that address it by the name of this machine. A
page of another site can neither read the plots nor send to them, even where its name leads to 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import errno
import getpass
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from hessianfree.plotting.live import Follower, check_interval
from hessianfree.support import checks

if TYPE_CHECKING:
    from hessianfree.plotting.webagg import Application

ADDRESS = "127.0.0.1"
PORT = 8988  # that of matplotlib's WebAgg
#: Ports that are tried, from the given one on.
TRIED = 20
_MISSING = "Plots in a browser need tornado, which is not installed; install it by pip install 'hessianfree-jax[web]'."


def serve(path: str | Path, port: int = PORT, interval: float = 1.0) -> None:
    """Show a run in a browser, and keep the plots up to date until Ctrl-C is pressed.

    Prints the address, and how to reach it from another machine by ssh. Waits for a file that does not exist yet or is
    incomplete. Anyone who is logged in on this machine can open the page.

    Args:
        path: a plots file, a checkpoint or a saved result, as in `hf.dataplotter.run`.
        port: where to listen; if it is in use, the next one that is free. 0 for any.
        interval: seconds between two reads of the file, above 0.

    Raises:
        ImportError: if tornado is not installed.
        ValueError: if the port or the interval is out of range.
        OSError: if all ports that were tried are in use, or the system allows none.
        FileFormatError: if the file is of another kind, or stays damaged for a minute.
    """
    check_interval(interval)
    if checks.at_least("port", port, 0) > 65535:
        raise ValueError(f"port is {port}; a number from 0 to 65535 is expected, such as {PORT}.")
    try:
        from hessianfree.plotting.webagg import Application
    except ModuleNotFoundError as error:
        raise ImportError(_MISSING) from error
    follower = Follower(Path(path))
    try:
        asyncio.run(_serve(Application(Path(path).name), listening(port), follower, interval))
    except KeyboardInterrupt:
        print("\nstopped", flush=True)


async def _serve(application: Application, listener: socket.socket, follower: Follower, interval: float) -> None:
    application.listen_on(listener)
    print(invitation(listener.getsockname()[1]), flush=True)
    try:
        while True:
            content = follower.news(elapsed=interval)
            if content is not None:
                application.show(content)
            await asyncio.sleep(interval)
    finally:
        application.close()


def listening(port: int) -> socket.socket:
    """A socket that listens on a port of this machine alone, or on the next one that is free.

    Raises OSError if there is none.
    """
    last = min(port + TRIED, 65536) if port else 1
    for tried in range(port, last):
        try:
            found = socket.create_server((ADDRESS, tried))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            continue
        found.setblocking(False)
        return found
    raise OSError(f"The ports {port} to {last - 1} are in use or not allowed; give another one: --port {PORT + 1000}.")


def invitation(port: int) -> str:
    """Where to look, here and from another machine."""
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    return (
        f"http://{ADDRESS}:{port}/ shows the plots (Ctrl-C ends)\n"
        f"from another machine: ssh -L {port}:{ADDRESS}:{port} {here}, and then the same address there"
    )
