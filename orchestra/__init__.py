"""One command, one address: a Python backend and a Vite frontend, supervised and served together."""

__version__ = "0.1.0"
