"""The server's HTTP: `app.application` is the ASGI application, `listener.serve` runs it."""
