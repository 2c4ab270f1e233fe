"""The dashboard: HTML, CSS and ES modules in `static`, and what serves them. A client of the public API alone.

No build step: what is in `static` is what the browser gets. It imports nothing of ours.
"""
