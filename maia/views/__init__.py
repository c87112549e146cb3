"""Views: what people look at, as plain data that the command line, an API and pages can all render.

Each module reads one view from an Atlas into frozen dataclasses. `maia.views.words.plain` converts any of
them to lists, dictionaries, strings and numbers for JSON.
"""
