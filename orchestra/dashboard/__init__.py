"""How a run looks: a model fed by events, its picture on the screen, and the plain and JSON printers.

Nothing is imported here: plain output must not pay for rich.
"""
