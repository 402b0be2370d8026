"""The life of a server: ``cli.serve`` has its steps, each module here one of them."""
