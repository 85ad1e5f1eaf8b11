"""A chat completion server on localhost that answers by a function and fails as it is told."""

import contextlib
import http.server
import json
import socket
import struct
import threading


class ChatServer:
    """What was asked, and the address.

    Attributes:
      url: up to /chat/completions.
      requests: (headers, body) of every request, failed ones included.
      most_at_once: largest number of requests that were in work at the same time.
      over: set at the end; what hangs until then hangs for ever.
    """

    def __init__(self):
        self.url, self.requests, self.most_at_once = "", [], 0
        self.over = threading.Event()
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


def completion(content, finish="stop", message=(), **fields):
    """The body of a reply, as bytes; `message` has more fields of the message."""
    message = {"role": "assistant", "content": content, **dict(message)}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"choices": [choice], **fields}).encode()


def reply(data, status=200, headers=(), *, length=None):
    """A fault: another reply, as text, bytes or JSON; `length` is what it says of itself."""
    if not isinstance(data, bytes):
        data = data.encode() if isinstance(data, str) else json.dumps(data).encode()
    return lambda to: to.send(status, data, dict(headers), length)


def raw(*pieces, headers="", status="200 OK", pause=None, hang=False):
    """A fault: bytes as they are, after a head of our own; then the end, unless it is to hang."""

    def write(to):
        to.wfile.write(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode())
        to.leave()
        for piece in pieces:
            to.wfile.write(piece)
            to.wfile.flush()
            if to.server.chat.over.wait(pause or 0):
                return
        if hang:
            to.server.chat.over.wait()

    return write


def reset(to):
    """A fault: status 503, and a connection that is broken off inside the body."""
    raw(b"wai", status="503 Busy", headers="Content-Length: 9\r\n")(to)
    to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to.connection.close()


@contextlib.contextmanager
def chat_server(answer, fault=lambda number, body: None):
    """Serves until the end of the block.

    Args:
      answer: body of a request -> (text, finish reason).
      fault: (number of the request from 0, body) -> None for a good reply, or what makes another
        one of the handler, such as `reply` and `raw`.
    """
    server = ChatServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = server.begin(dict(self.headers), body)
            self.in_work = True
            with contextlib.suppress(ConnectionError):  # the client gave up
                if self.path != "/v1/chat/completions":
                    self.send(404, b"no such path", {})
                elif wrong := fault(number, body):
                    wrong(self)
                else:
                    self.send(200, completion(*answer(body)), {})
            self.leave()

        def leave(self):
            if self.in_work:
                self.in_work = False
                server.end()

        def send(self, status, data, headers, length=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            self.leave()  # a client that has read the reply may ask again at once
            self.wfile.write(data)

    listener = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    listener.daemon_threads = True
    listener.chat = server
    server.url = f"http://localhost:{listener.server_address[1]}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        listener.shutdown()
        thread.join()
        listener.server_close()
