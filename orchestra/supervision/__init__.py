"""Running the processes of a plan: pure rules for the life of each, and the code that carries them out.

Nothing is imported here: each module is used by itself.
"""
