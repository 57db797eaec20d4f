"""The commands, a module each: `parser()` for its help, and `run(arguments, voice)`, which returns the exit code."""

COMMANDS = {
    "fetch": "fetch one file",
    "cache": "list, verify and remove cached files: ls, info, verify, rm, gc, path",
    "control": "run the control plane, which knows the models of each node",
    "node": "serve this machine's cache to peers",
    "locate": "list the nodes that have a model",
    "register": "register that a node has a model",
    "withdraw": "undo `loom register`",
    "nodes": "list the nodes of the fleet",
    "models": "list the models of the fleet",
    "doctor": "look for what keeps Loom from working well here",
    "config": "show every setting, its value and where it came from",
    "help": "show this page, or a command's: loom help fetch",
}
"""Name -> what it does. `loom NAME` is `loom.cli.commands.NAME`; help and docs list them from here."""
