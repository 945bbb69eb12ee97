"""Plots in a browser: what the server answers, to whom, and what a browser shows."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("tornado")

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from hessianfree.io.files import FileFormatError
from hessianfree.plotting import live, web
from hessianfree.plotting.webagg import Application

SERIES = {"training error (log)": [1.0, 0.1, 0.01], "CG iterations": [3, 7, 4]}


def write(path, series=SERIES):
    """As the run does: the file is replaced."""
    new = path.with_suffix(".new")
    new.write_bytes(pickle.dumps(series, protocol=2))
    os.replace(new, path)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "HF_plots.pkl")
    return tmp_path / "HF_plots.pkl"


@contextlib.asynccontextmanager
async def served(path, interval=0.01):
    """The port of a server in this process."""
    application, listener = Application(path.name), web.listening(0)
    port = listener.getsockname()[1]
    task = asyncio.ensure_future(web._serve(application, listener, live.Follower(path), interval))
    try:
        while path.exists() and application.manager is None and not task.done():
            await asyncio.sleep(0.01)
        yield port
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def get(port, page="/", **headers):
    request = HTTPRequest(f"http://127.0.0.1:{port}{page}", headers=headers)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


async def connect(port, **headers):
    """The first messages of the socket, or the status that it was refused with."""
    request = HTTPRequest(f"ws://127.0.0.1:{port}/socket", headers=headers)
    try:
        connection = await websocket_connect(request)
    except HTTPClientError as error:
        return error.code
    messages = [await connection.read_message() for _ in range(2)]
    connection.close()
    return messages


# ---- who is answered -------------------------------------------------------------------------------------------------


def test_only_this_machine_is_answered(path):
    async def scenario():
        async with served(path) as port:
            assert (await get(port)).code == 200
            with pytest.raises(ConnectionRefusedError):  # what listens on all addresses answers here, too
                socket.create_connection(("127.0.0.2", port), timeout=5)
            for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET):
                if not found[4][0].startswith("127."):
                    with pytest.raises(OSError, match="refused"):
                        socket.create_connection(found[4], timeout=5)

    asyncio.run(scenario())


PAGES = ("/", "/mpl.js", "/download.png", "/favicon.ico", "/_static/css/page.css", "/_images/home.png")


def test_every_page_wants_the_name_of_this_machine(path):
    async def scenario():
        async with served(path) as port:
            for page in PAGES:
                assert [(await get(port, page, Host=host)).code for host in names(port)] == [200] * 3, page
                assert (await get(port, page, Host=f"evil.example:{port}")).code == 403, page

    asyncio.run(scenario())


def names(port):
    return f"127.0.0.1:{port}", f"localhost:{port}", "localhost:4711"  # the last one by a tunnel


def test_the_socket_wants_a_page_of_its_own(path):
    async def scenario():
        async with served(path) as port:
            own = f"127.0.0.1:{port}"
            for host in names(port):
                opened = await connect(port, Host=host, Origin=f"http://{host}")
                assert '"type": "refresh"' in opened[1]
            refused = {
                "another site": {"Host": own, "Origin": "http://evil.example"},
                "another site, whose name leads here": {
                    "Host": f"evil.example:{port}",
                    "Origin": f"http://evil.example:{port}",
                },
                "another server on this machine": {"Host": own, "Origin": "http://127.0.0.1:1"},
                "a file, or a page without rights": {"Host": own, "Origin": "null"},
            }
            assert {why: await connect(port, **headers) for why, headers in refused.items()} == dict.fromkeys(
                refused, 403
            )

    asyncio.run(scenario())


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_the_page_waits_for_the_file(path):
    whole = path.read_bytes()
    path.unlink()

    async def scenario():
        async with served(path) as port:
            waiting = (await get(port)).body.decode()
            assert "Waiting for HF_plots.pkl" in waiting
            assert 'http-equiv="refresh"' in waiting
            assert (await get(port, "/download.png")).code == 404
            path.write_bytes(whole)
            while "mpl.figure" not in (await get(port)).body.decode():
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_names_are_no_markup(path):
    odd = path.with_name("<b>&.pkl")
    path.rename(odd)

    async def scenario():
        async with served(odd) as port:
            assert "<title>&lt;b&gt;&amp;.pkl</title>" in (await get(port)).body.decode()

    asyncio.run(scenario())


def test_pictures_can_be_saved(path):
    async def scenario():
        async with served(path) as port:
            answers = {form: await get(port, f"/download.{form}") for form in ("png", "svg", "pdf", "pgf")}
            starts = {form: answer.body[:8] for form, answer in answers.items() if answer.code == 200}
            assert starts == {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml ve", "pdf": b"%PDF-1.4"}
            assert (await get(port, "/_static/../__init__.py")).code == 403
            assert b'mpl.extensions = ["png", "svg", "pdf"];' in (await get(port, "/mpl.js")).body

    asyncio.run(scenario())


def test_another_kind_of_file_is_an_error(path):
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(FileFormatError, match="expected a plots file"):
        web.serve(path, port=0)


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_leads_to_the_next_one():
    with web.listening(0) as first:
        port = first.getsockname()[1]
        with web.listening(port) as second:
            assert port < second.getsockname()[1] < port + web.TRIED


def test_no_free_port_is_an_error(monkeypatch):
    def create_server(address):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("socket.create_server", create_server)
    with pytest.raises(OSError, match="ports 8988 to 9007 are in use or not allowed; give another one: --port 9988"):
        web.listening(8988)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1,), "port is -1"), ((65536,), "port is 65536"), ((8988, 0), "interval is 0")],
)
def test_numbers_out_of_range(arguments, message, path):
    with pytest.raises(ValueError, match=message):
        web.serve(path, *arguments)


def test_without_tornado_the_remedy_is_said(path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hessianfree.plotting.webagg")
    monkeypatch.setitem(sys.modules, "tornado", None)
    with pytest.raises(ImportError, match=r"pip install 'hessianfree-jax\[web\]'"):
        web.serve(path)


def test_on_the_command_line(path):
    command = [sys.executable, "-m", "hessianfree", "plot", path.name, "--web", "--port", "0"]
    with subprocess.Popen(command, cwd=path.parent, stdout=subprocess.PIPE, text=True) as process:
        address, tunnel = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    port = address.split("/")[2].partition(":")[2]
    assert address.startswith(f"http://127.0.0.1:{port}/ ")
    assert f"ssh -L {port}:127.0.0.1:{port} " in tunnel
    assert (process.returncode, rest) == (0, "\nstopped\n")
    both = subprocess.run([*command, "--save", "x.png"], cwd=path.parent, capture_output=True, text=True, check=False)
    assert both.returncode == 2
    assert "give one of them" in " ".join(both.stderr.replace("│", " ").split())


# ---- in a browser ----------------------------------------------------------------------------------------------------

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1300,1100"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
#: How many pixels of the plots are not white, and a number that differs where the picture does.
LOOK = """
const canvas = document.querySelector("canvas.mpl-canvas");
if (!canvas || !canvas.width) { return [0, 0]; }
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let ink = 0, hash = 0;
for (let i = 0; i < pixels.length; i += 4) {
  if (pixels[i + 3] && pixels[i] + pixels[i + 1] + pixels[i + 2] < 720) { ink += 1; hash = (hash * 31 + i) % 2147483647; }
}
return [ink, hash];
"""
#: Try to open the socket of the plots from a page; says whether it opened.
TRY = """
const done = arguments[1], socket = new WebSocket(arguments[0]);
socket.onopen = () => done("opened");
socket.onerror = () => done("refused");
"""


@pytest.fixture
def browser(tmp_path):
    """A browser without windows, a profile of its own and nothing of the user's."""
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    opened = selenium.Chrome(options=options, service=Service(driver))
    opened.set_page_load_timeout(120)
    opened.set_script_timeout(120)
    yield opened
    opened.quit()


def looked(browser, unlike=(), patience=120):
    """The picture, as soon as there is one, and another one than these, and it stays."""
    end, before = time.monotonic() + patience, None
    while time.monotonic() < end:
        seen = tuple(browser.execute_script(LOOK))
        if seen[0] > 0 and seen not in unlike and seen == before:
            return seen
        before = seen
        time.sleep(0.3)
    raise AssertionError(f"no picture unlike {unlike}; the last one was {seen}")


def test_a_browser_shows_plots_that_grow(browser, path):
    command = [sys.executable, "-m", "hessianfree", "plot", path.name, "--web", "--port", "0", "--interval", "0.2"]
    with subprocess.Popen(command, cwd=path.parent, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[0]
            browser.get(url)
            assert browser.title == "HF_plots.pkl"
            first = looked(browser)
            assert first[0] > 3000  # axes, labels and lines of two panels
            write(path, {name: [*values, 2.0, 3.0] for name, values in SERIES.items()})
            second = looked(browser, unlike=[first])
            write(path, {**SERIES, "damping (log)": [1.0, 2.0, 3.0], "update norm": [3, 2, 1]})
            third = looked(browser, unlike=[first, second])
            assert third[0] > 1.15 * second[0]  # four panels
            assert strangers(browser, url) == "refused"
            browser.get(url)
            looked(browser)
        finally:
            server.send_signal(signal.SIGINT)
            server.stdout.read()
    assert server.returncode == 0
    assert browser.execute_script("return document.getElementById('ended').hidden") is False


def strangers(browser, url):
    """What becomes of a page of another server that opens the socket of the plots."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another</title>")

        def log_message(self, *args):
            pass

    # A browser also opens connections that it may never use; they must not keep the server from ending.
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as other:
        other.daemon_threads, other.block_on_close = True, False
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            browser.get(f"http://127.0.0.1:{other.server_port}/")
            assert browser.title == "another"
            return browser.execute_async_script(TRY, url.replace("http", "ws") + "socket")
        finally:
            other.shutdown()
