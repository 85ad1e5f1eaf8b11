"""A chat completion server on localhost that answers by a function and fails as it is told."""

import contextlib
import http.server
import json
import threading
import time


class ChatServer:
    """What was asked, and the address.

    Attributes:
      url: up to /chat/completions.
      requests: (headers, body) of every request, failed ones included.
      most_at_once: largest number of requests that were in work at the same time.
    """

    def __init__(self):
        self.url, self.requests, self.most_at_once = "", [], 0
        self._lock, self._now = threading.Lock(), 0

    def begin(self, headers, body):
        with self._lock:
            self.requests.append((headers, body))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return len(self.requests) - 1

    def end(self):
        with self._lock:
            self._now -= 1


@contextlib.contextmanager
def chat_server(answer, fault=lambda number, body: None):
    """Serves until the end of the block.

    Args:
      answer: body of a request -> (text, finish reason).
      fault: (number of the request from 0, body) -> None for a good reply, or one of "garbage",
        "cut", "two", "no text", ("slow", seconds), ("status", code, headers).
    """
    server = ChatServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = server.begin(dict(self.headers), body)
            self.in_work = True
            try:
                self.reply(body, fault(number, body))
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up
            finally:
                self.leave()

        def leave(self):
            if self.in_work:
                self.in_work = False
                server.end()

        def reply(self, body, wrong):
            kind, *details = wrong if isinstance(wrong, tuple) else (wrong,)
            if self.path != "/v1/chat/completions":
                return self.send(404, b"no such path", {})
            if kind == "slow":
                time.sleep(details[0])
            if kind == "status":
                return self.send(details[0], b'{"error": "as told"}', details[1])
            if kind == "garbage":
                return self.send(200, b"<html>busy</html>", {})
            text, finish = answer(body)
            choice = {"index": 0, "message": {"role": "assistant", "content": text},
                      "finish_reason": finish}  # fmt: skip
            if kind == "no text":
                choice["message"]["content"] = None
            data = json.dumps({"choices": [choice] * (2 if kind == "two" else 1)}).encode()
            self.send(200, data, {}, cut=kind == "cut")

        def send(self, status, data, headers, cut=False):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.leave()  # a client that has read the reply may ask again at once
            self.wfile.write(data[: len(data) // 2] if cut else data)

    listener = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    listener.daemon_threads = True
    server.url = f"http://localhost:{listener.server_address[1]}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
