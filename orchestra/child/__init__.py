"""One child process: spawning it, reading its output, checking its readiness, and ending its process tree.

Nothing is imported here: modules are imported one by one, so that a run pays only for those that it needs.
"""
