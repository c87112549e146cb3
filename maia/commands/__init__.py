"""One module a command of `maia`, each with a Typer `app`, imported only when it is called."""
