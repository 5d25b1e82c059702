"""One question to one process: are you there? An attempt either succeeds or says why it did not.

The HTTP question is one plain ``GET /`` on a connection of its own, and any answer will do, ``500``
included: it shows that the server, not just its socket, is at work (the parent of ``uvicorn --reload``
accepts connections while its app cannot even be imported).

Never here: how often, and what follows from it.
"""

from __future__ import annotations

import trio

__all__ = ["HTTP_TIMEOUT", "http_answer"]

# Long, because the question is asked one at a time: a first request may compile, migrate or connect.
HTTP_TIMEOUT = 10.0
_MANNERS = 0.2


async def http_answer(host: str, port: int, *, within: float = HTTP_TIMEOUT) -> str:
    """Ask for ``/`` and wait for the beginning of an answer.

    Args:
        host: A literal address.
        port: Its port.
        within: Seconds for all of it.

    Returns:
        An empty string after an answer of any status, else what was wrong, in words.
    """
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request = (
        f"GET / HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: orchestra-probe\r\n"
        "Accept: text/html, */*\r\nConnection: close\r\n\r\n"
    )
    received = b""
    with trio.move_on_after(within) as limit:
        try:
            # Not open_tcp_stream: the host is an address, and its ExceptionGroups say nothing more.
            with trio.socket.socket(trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET) as dialled:
                await dialled.connect((host, port))
                stream = trio.SocketStream(dialled)
                await stream.send_all(request.encode("ascii"))
                while len(received) < len(b"HTTP/1.") and (chunk := await stream.receive_some(4096)):
                    received += chunk
                # Hear it out, if it is short: a client that hangs up early is logged as one.
                with trio.move_on_after(_MANNERS):
                    while await stream.receive_some(65536):
                        pass
        except (OSError, trio.BrokenResourceError) as exc:
            return f"port {port}: {exc.__cause__ or exc}"
    if limit.cancelled_caught:
        return f"port {port} is open, HTTP times out"
    if not received.startswith(b"HTTP/1."):
        return f"port {port} is open, but does not speak HTTP"
    return ""
