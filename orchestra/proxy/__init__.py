"""The one address: a reverse proxy that asks the backend first and Vite second, and streams all the way.

Nothing is imported here: what decides is also used where there is no trio (`asgi`).
"""
