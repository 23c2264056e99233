"""Many replicas, one brain: what they say to each other, and over what.

Floor: adapters. `frames` and `asked` are what is said, `framing` and `handshake` how it becomes bytes (both sans-IO),
`channel` is one connection, `link` the side that asks for tickets and `server` the side that gives them.
"""
