"""What ASGI calls things."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from orchestra.control.doors import Message, Receive, Scope, Send

__all__ = ["App", "Message", "Receive", "Scope", "Send"]

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
