"""A server on this machine that answers every request with the bytes it was last given: garbage for its readers."""

import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "x"}]}'


class FuzzServer:
    """Lists one model, "m", and answers POST requests with `body`, status 200; `keys` are those it was sent."""

    def __init__(self) -> None:
        self.body, self.keys, outer = b"", set(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(MODELS)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(outer.body)

            def _answer(self, body: bytes) -> None:
                outer.keys.add(self.headers.get("Authorization"))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()


@cache
def fuzz_server() -> FuzzServer:
    """One server for the whole process."""
    return FuzzServer()
