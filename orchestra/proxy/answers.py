"""Answers of orchestra itself: refusals, loops, errors of upstreams.

One `Message` has three forms, chosen by what the client accepts: a small page without scripts or other files
(dark and light), JSON, or plain text. All data from outside is escaped. No answer is cached. An error that
may be over in a second has ``Retry-After``, and its page retries by itself.

Not here: the decision to answer.
"""

from __future__ import annotations

import html
import json
from functools import cache
from http import HTTPStatus
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.proxy.head import BadMessage, ResponseHead
from orchestra.proxy.request import is_for_a_window, is_navigation
from orchestra.proxy.route import Availability, Unavailable

if TYPE_CHECKING:
    from orchestra.errors import UpstreamError
    from orchestra.proxy.head import Headers, RequestHead

__all__ = ["Message", "explain", "own", "render"]

_OWN = "orchestra's own path"
# Additional headers by status: when to retry, and the protocol version (RFC 6455 4.4).
_HEADERS: dict[int, Headers] = {502: [(b"Retry-After", b"1")], 426: [(b"Sec-WebSocket-Version", b"13")]}


class Message(Struct, frozen=True, kw_only=True):
    """A message of orchestra to a client.

    Attributes:
        title: The problem in a few words.
        text: A sentence that names the thing and the cause.
        hint: The next step; may be empty.
        tail: A process's last lines of output, oldest first.
        reason: The reason for the dashboard, if it differs from the title.
        is_followed: Whether the page waits for the backend: with a script it learns when that is ready.
    """

    status: int
    title: str
    text: str
    hint: str = ""
    tail: tuple[str, ...] = ()
    reason: str = ""
    is_followed: bool = False


def explain(error: UpstreamError | BadMessage, *, shows_details: bool = False) -> Message:
    """Explain why there is no answer, or why a request is refused.

    A client on this machine (`shows_details`) also gets output of a process, which includes the cause.
    """
    text = f"{error}."
    if isinstance(error, BadMessage):
        return Message(status=error.status, title=error.title, text=text)
    status, hint = error.status_hint, error.hint
    if not isinstance(error, Unavailable):
        title = "No answer in time" if status == 504 else "No valid answer"
        return Message(status=status, title=title, text=text, hint=hint, reason="no valid answer")
    state = "ready" if error.availability is Availability.HOLD else "there"
    is_waited_for = error.process is not None and error.availability is not Availability.READY
    if error.process is not None and not shows_details:
        text, hint = f"{error.process} is not {state}.", "The machine that it runs on is told why."
    return Message(
        status=status,
        title=f"The {error.side} is not {state}",
        text=text,
        hint=hint,
        tail=error.tail if shows_details else (),
        reason=f"{error.side} not {state}",
        is_followed=error.side == "backend" and is_waited_for,
    )


def own(head: RequestHead) -> Message:
    """Answer a request under our own paths."""
    if head.target == b"*":
        return Message(status=200, title="orchestra", text="All methods but CONNECT.", reason=_OWN)
    text = f"orchestra has nothing at {head.path.decode('ascii')}."
    return Message(status=404, title="Not found", text=text, reason=_OWN)


def render(message: Message, head: RequestHead | None, *, tag: str = "") -> tuple[ResponseHead, bytes]:
    """Put `message` into a form that the client reads; pages get a script's `tag`.

    Without a `head` the request could not be read: the answer is plain text.
    """
    accepted = b"" if head is None else head.values.get(b"accept", b"").lower()
    if head is not None and b"text/html" in accepted and (is_navigation(head) or is_for_a_window(head)):
        # A retry would send a form a second time, which the user has not requested.
        looks_again = message.status == 502 and head.method in (b"GET", b"HEAD")
        media_type, body = b"text/html; charset=utf-8", _page(message, tag, looks_again=looks_again)
    elif b"json" in accepted:
        media_type, body = b"application/json", _json(message)
    else:
        media_type, body = b"text/plain; charset=utf-8", _text(message)
    content = body.encode("utf-8", "replace")
    headers: Headers = [
        (b"Content-Type", media_type),
        (b"Content-Length", b"%d" % len(content)),
        (b"Cache-Control", b"no-store"),
        *_HEADERS.get(message.status, []),
    ]
    reason = HTTPStatus(message.status).phrase.encode("ascii")
    response = ResponseHead.of(message.status, headers, reason)
    return response, b"" if head is not None and head.method == b"HEAD" else content


@cache
def _template() -> Template:
    return Template(Path(__file__).with_name("page.html").read_text("utf-8"))


def _page(message: Message, tag: str, *, looks_again: bool) -> str:
    hint, tail = html.escape(message.hint), html.escape("\n".join(message.tail))
    refresh = again = ""
    if looks_again:
        refresh = '<meta http-equiv="refresh" content="1">'
        again = " &middot; this page looks again each second"
    if looks_again and tag and message.is_followed:
        refresh = f"<noscript>{refresh}</noscript>"
        again = " &middot; this page loads again when the backend is ready"
    return _template().substitute(
        refresh=refresh and f"{refresh}\n",
        again=again,
        tag=tag and f"{tag}\n",
        title=html.escape(message.title),
        text=html.escape(message.text),
        hint=hint and f"<p><strong>{hint}</strong></p>\n",
        tail=tail and f"<pre>{tail}</pre>\n",
        status=message.status,
        phrase=HTTPStatus(message.status).phrase,
    )


def _json(message: Message) -> str:
    said = {"error": message.title, "detail": message.text, "hint": message.hint, "output": message.tail}
    return json.dumps({key: value for key, value in said.items() if value}) + "\n"


def _text(message: Message) -> str:
    lines = [f"{message.title}: {message.text}", *filter(None, [message.hint])]
    if message.tail:
        lines += ["", *message.tail]
    return "\n".join(lines) + "\n"
