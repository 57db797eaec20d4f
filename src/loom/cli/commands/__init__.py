"""The commands, a module each: `parser()` for its help, and `run(arguments, voice)`, which returns the exit code."""

COMMANDS = {
    "fetch": "fetch one file",
    "cache": "see and tend what is cached: ls, info, verify, rm, gc, path",
    "control": "run the control plane: it knows which node holds which model",
    "node": "hand this machine's cache to peers",
    "locate": "which nodes have a model",
    "register": "say that a node has a model",
    "withdraw": "say that it has it no more",
    "nodes": "the nodes of the fleet",
    "models": "the models of the fleet",
    "config": "show every setting, its value and where it came from",
    "help": "show this page, or a command's: loom help fetch",
}
"""Name -> what it does. `loom NAME` is `loom.cli.commands.NAME`; help and docs list them from here."""
