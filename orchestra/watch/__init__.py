"""Which files matter to a run, and when they change.

`interest` decides from the plan which files matter, `filters` finds them, `files` knows their content, and
`changes` waits until it changes.
"""
