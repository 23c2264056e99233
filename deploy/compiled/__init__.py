"""The gateway's hot path compiled ahead of time by mypyc: the same files, less CPU. See deploy/README.md.

`modules` says what is compiled, `build` compiles it. Nothing of the product knows of this folder.
"""
