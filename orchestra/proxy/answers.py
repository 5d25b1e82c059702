"""What orchestra says itself: refusals, loops, a backend that is not there.

One `Answer`, three forms, by what the caller reads: a small page that needs nothing else (no script, no other
file, dark and light), JSON, or plain text. All that comes from outside is escaped. None of it is ever cached;
what may be different in a second says so (``Retry-After``), and its page looks again by itself.

Never here: a decision that an answer is due.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from orchestra.proxy.message import ResponseHead, fields
from orchestra.proxy.route import is_for_a_window, is_navigation

if TYPE_CHECKING:
    from orchestra.proxy.message import Headers, RequestHead

__all__ = ["Answer", "render"]

_RETRIED = (502,)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
{refresh}<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 12vh auto; padding: 0 1.5rem }}
h1 {{ font-size: 1.4rem; font-weight: 600 }}
pre {{ font: 13px/1.5 ui-monospace, monospace; padding: 1rem; overflow: auto; white-space: pre-wrap;
      background: color-mix(in srgb, currentColor 8%, transparent); border-radius: 6px }}
footer {{ opacity: .6; font-size: .85rem }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
{hint}{tail}<footer>{status} {phrase} &middot; orchestra{again}</footer>
</body>
</html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Something that orchestra has to say.

    Attributes:
        title: In few words: what is the matter.
        text: In a sentence: the thing and the cause.
        hint: The next step; may be empty.
        tail: A process's last lines of output, oldest first.
        headers: Beside those that every answer has.
    """

    status: int
    title: str
    text: str
    hint: str = ""
    tail: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


def render(answer: Answer, head: RequestHead | None, *, close: bool = False) -> tuple[ResponseHead, bytes]:
    """Put `answer` into a form that the caller reads.

    Args:
        answer: What is to be said.
        head: The request; ``None`` if it could not be read, which gets text.
        close: The connection is closed afterwards.
    """
    accepted = b"" if head is None else b",".join(fields(head.headers, b"accept")).lower()
    if head is not None and b"text/html" in accepted and (is_navigation(head) or is_for_a_window(head)):
        # To look again would send a form anew, and nobody has asked for that.
        looks_again = answer.status in _RETRIED and head.method in (b"GET", b"HEAD")
        media_type, body = b"text/html; charset=utf-8", _page(answer, looks_again=looks_again)
    elif b"json" in accepted:
        media_type, body = b"application/json", _json(answer)
    else:
        media_type, body = b"text/plain; charset=utf-8", _text(answer)
    content = body.encode("utf-8", "replace")
    headers: Headers = [
        (b"Content-Type", media_type),
        (b"Content-Length", b"%d" % len(content)),
        (b"Cache-Control", b"no-store"),
        *answer.headers,
    ]
    if answer.status in _RETRIED:
        headers.append((b"Retry-After", b"1"))
    headers.append((b"X-Orchestra-Upstream", b"orchestra"))
    if close:
        headers.append((b"Connection", b"close"))
    reason = HTTPStatus(answer.status).phrase.encode("ascii")
    if head is not None and head.method == b"HEAD":
        content = b""
    return ResponseHead(answer.status, headers, reason), content


def _page(answer: Answer, *, looks_again: bool) -> str:
    hint = f"<p><strong>{html.escape(answer.hint)}</strong></p>\n" if answer.hint else ""
    tail = f"<pre>{html.escape(chr(10).join(answer.tail))}</pre>\n" if answer.tail else ""
    return _PAGE.format(
        refresh='<meta http-equiv="refresh" content="1">\n' if looks_again else "",
        again=" &middot; this page looks again each second" if looks_again else "",
        title=html.escape(answer.title),
        text=html.escape(answer.text),
        hint=hint,
        tail=tail,
        status=answer.status,
        phrase=HTTPStatus(answer.status).phrase,
    )


def _json(answer: Answer) -> str:
    content: dict[str, object] = {"error": answer.title, "detail": answer.text}
    if answer.hint:
        content["hint"] = answer.hint
    if answer.tail:
        content["output"] = list(answer.tail)
    return json.dumps(content) + "\n"


def _text(answer: Answer) -> str:
    lines = [f"{answer.title}: {answer.text}"]
    if answer.hint:
        lines.append(answer.hint)
    if answer.tail:
        lines += ["", *answer.tail]
    return "\n".join(lines) + "\n"
