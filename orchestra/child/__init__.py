"""One child process: spawned, read, asked whether it is ready, and ended with all that it has started.

Nothing is imported here: each module is used by itself, and a run pays only for those that it needs.
"""
