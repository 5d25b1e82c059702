"""Measurements of what orchestra promises."""
