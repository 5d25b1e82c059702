"""The control app: state and orders of a run for browsers and local programs, and the script in pages."""
