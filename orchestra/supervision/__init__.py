"""Running the processes of a plan: pure rules for the life of each, and what carries them out.

Nothing is imported here: each module is used by itself.
"""
