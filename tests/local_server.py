"""A real HTTP server on this machine that speaks enough of OpenAI's protocol for a test."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """Answers POST requests with what `reply(path, body)` returns: a dict, or a status to fail with."""

    def __init__(self, reply):
        self.requests, self.keys = [], []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    answer = reply(self.path, body)
                status, document = (answer, {"error": {"message": "no"}}) if isinstance(answer, int) else (200, answer)
                payload = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def chat(text):
    """A chat completion that says `text`."""
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}


def embeddings(vectors):
    """An embeddings answer."""
    rows = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return {"object": "list", "model": "m", "data": rows, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
