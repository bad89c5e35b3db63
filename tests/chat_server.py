"""An OpenAI-compatible endpoint over real HTTP that answers as a test says."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Said = tuple[int, object]  # status, and a body: bytes as they are, all else as JSON


@contextmanager
def serving(
    answer: Callable[[dict, str, str | None], Said], headers: Mapping[int, tuple[str, str]] = {}
) -> Iterator[str]:
    """The address of a server that answers each request (body, path, key) by `answer`, one at a
    time; `headers` are more ones by status."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                status, said = answer(body, self.path, self.headers["Authorization"])
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status in headers:
                self.send_header(*headers[status])
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
