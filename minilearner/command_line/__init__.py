"""The command line `minilearner`: one module for each command.

Commands only read options, call the public Python API and show what comes back. The modules that this package imports
at once load no torch, so that `--help` and shell completion are quick. What needs torch is imported inside a command.
"""
