"""A real HTTP server on this machine that speaks enough of OpenAI's protocol for a test."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """Says nothing of a client that left before its answer: the traceback would be the last word on stderr."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class LocalServer:
    """Answers POST requests with what `reply(path, body)` returns: a document, a status, or (status, document).

    A document is JSON, or the bytes of something else.

    `models` is what GET requests are answered with, in the same forms.
    """

    def __init__(self, reply, models=404):
        self.requests, self.keys = [], []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                self._send(reply(self.path, body))

            def do_GET(self):
                with lock:
                    outer.keys.append(self.headers.get("Authorization"))
                self._send(models)

            def _send(self, answer):
                answer = (answer, {"error": {"message": "no"}}) if isinstance(answer, int) else answer
                status, document = answer if isinstance(answer, tuple) else (200, answer)
                payload = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("retry-after-ms", "10")
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def chat(text, finish="stop", **fields):
    """A chat completion that says `text`; `fields` go into its message."""
    message = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text} | fields}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}


def embeddings(vectors):
    """An embeddings answer."""
    rows = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "model": "m", "data": rows, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
