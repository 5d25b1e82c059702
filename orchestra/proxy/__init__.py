"""The one address: a reverse proxy that asks the backend first and Vite second, and streams all the way.

Nothing is imported here: the modules that decide are also used where there is no trio (`asgi`).
"""
