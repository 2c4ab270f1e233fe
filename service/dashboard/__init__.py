"""The dashboard: HTML, CSS and ES modules in `static`, and the code that serves them. It uses the public API only.

There is no build step: browsers load the files in `static`. It imports no other package of normlab.
"""
