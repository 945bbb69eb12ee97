"""The web application of live plots: one page with one figure, by matplotlib's WebAgg.

WebAgg draws on the server, and its page sends what the mouse does by a WebSocket. Tornado accepts such a socket only
from a page of the same host, but a name of another site may lead to 127.0.0.1 and then is the same host. So every
request has to name this machine.
"""

from __future__ import annotations

import io
import json
import mimetypes
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
import tornado.httpserver
import tornado.web
import tornado.websocket
from matplotlib.backends.backend_webagg import FigureCanvasWebAgg, FigureManagerWebAgg
from tornado.escape import xhtml_escape

from hessianfree.plotting.sources import Content, draw, new_figure

#: What a browser on this machine, or at the other end of a tunnel to it, may call it.
HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
#: What the page offers to save.
FORMATS = ("png", "svg", "pdf")
#: Bytes of a message from the page at most: they tell of the mouse.
MOST_BYTES = 1 << 16

_WAITING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>{name}</title></head>
<body><p id="waiting">Waiting for {name}.</p></body></html>
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8"><title>{name}</title>
  <link rel="stylesheet" href="_static/css/page.css">
  <link rel="stylesheet" href="_static/css/boilerplate.css">
  <link rel="stylesheet" href="_static/css/fbm.css">
  <link rel="stylesheet" href="_static/css/mpl.css">
  <script src="mpl.js"></script>
</head>
<body>
  <div id="mpl-warnings" class="mpl-warnings"></div>
  <p id="ended" hidden>The plots have ended; reload the page if they run again.</p>
  <div id="figure" style="margin: 10px"></div>
  <script>
    const scheme = window.location.protocol === "https:" ? "wss://" : "ws://";
    const socket = new (mpl.get_websocket_type())(scheme + window.location.host + "/socket");
    socket.addEventListener("close", () => { document.getElementById("ended").hidden = false; });
    const save = (figure, format) => window.open("download." + format, "_blank");
    new mpl.figure(1, socket, save, document.getElementById("figure"));
  </script>
</body>
</html>
"""


class Application(tornado.web.Application):
    """Shows a figure, once there is one.

    Args:
        name: of the file, the title of the page.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.manager: Any = None  # of WebAgg, once there is a figure
        self._server: tornado.httpserver.HTTPServer | None = None
        images, static = Path(matplotlib.get_data_path(), "images"), FigureManagerWebAgg.get_static_file_path()
        super().__init__(
            [
                (r"/", _Page),
                (r"/mpl\.js", _Script),
                (r"/socket", _Socket),
                (rf"/download\.({'|'.join(FORMATS)})", _Download),
                (r"/favicon\.ico", _Icon),
                (r"/_static/(.*)", _Static, {"path": static}),
                (r"/_images/(.*)", _Static, {"path": str(images)}),
            ],
            websocket_max_message_size=MOST_BYTES,
        )

    def show(self, content: Content) -> None:
        """Show this in place of what was there; browsers that are open draw it."""
        if self.manager is None:
            self.manager = FigureCanvasWebAgg.new_manager(new_figure(content), 1)
            self.manager.set_window_title(self.name)
        draw(self.manager.canvas.figure, content)
        self.manager.canvas.draw_idle()

    def listen_on(self, listener: socket.socket) -> None:
        """Answer on a socket that listens."""
        self._server = tornado.httpserver.HTTPServer(self)
        self._server.add_socket(listener)

    def close(self) -> None:
        """Answer no more, and let go of the browsers."""
        if self._server is not None:
            self._server.stop()
        for web_socket in list(self.manager.web_sockets) if self.manager is not None else []:
            web_socket.close()


class _Local(tornado.web.RequestHandler):
    """Answers requests that name this machine."""

    application: Application

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        if self.request.host_name not in HOSTS:
            raise tornado.web.HTTPError(403, "the host is %s, and not this machine", self.request.host_name)


class _Page(_Local):
    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        page = _WAITING if self.application.manager is None else _PAGE
        self.write(page.replace("{name}", xhtml_escape(self.application.name)))


class _Script(_Local):
    def get(self) -> None:
        self.set_header("Content-Type", "application/javascript")
        self.write(FigureManagerWebAgg.get_javascript())
        self.write(f"\nmpl.extensions = {json.dumps(FORMATS)};\n")


class _Static(_Local, tornado.web.StaticFileHandler):
    """Files of matplotlib."""


class _Icon(_Local):
    def get(self) -> None:
        self.set_header("Content-Type", "image/png")
        self.write(Path(matplotlib.get_data_path(), "images", "matplotlib.png").read_bytes())


class _Download(_Local):
    def get(self, form: str) -> None:
        manager = self.application.manager
        if manager is None:
            raise tornado.web.HTTPError(404)
        file = io.BytesIO()
        manager.canvas.figure.savefig(file, format=form)
        self.set_header("Content-Type", mimetypes.types_map[f".{form}"])
        self.write(file.getvalue())


class _Socket(_Local, tornado.websocket.WebSocketHandler):
    """What WebAgg needs of the connection to one page."""

    def open(self) -> None:
        manager = self.application.manager
        if manager is None:
            self.close()
            return
        self.set_nodelay(True)
        manager.add_web_socket(self)

    def on_close(self) -> None:
        if self.application.manager is not None:
            self.application.manager.web_sockets.discard(self)

    def on_message(self, message: str | bytes) -> None:
        content = json.loads(message)
        if self.application.manager is not None and content["type"] != "supports_binary":
            self.application.manager.handle_json(content)

    def send_json(self, content: dict[str, Any]) -> None:
        """Called by WebAgg."""
        self._send(json.dumps(content), binary=False)

    def send_binary(self, blob: bytes) -> None:
        """Called by WebAgg."""
        self._send(blob, binary=True)

    def _send(self, message: str | bytes, binary: bool) -> None:
        with suppress(tornado.websocket.WebSocketClosedError):  # it is about to be taken off the list
            self.write_message(message, binary=binary)
