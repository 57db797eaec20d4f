"""The commands: `loom NAME` has in its module a `NAME_parser()` for its help, and `run_NAME(arguments, voice)`, which
returns the exit code.
"""

COMMANDS = {
    "fetch": "fetch files, or whole models of a hub",
    "lock": "print what stands behind names now: commit, files, sizes, digests",
    "verify": "check a folder against a lock file",
    "cache": "list, verify and remove cached files: ls, info, verify, rm, gc, path",
    "control": "run the control plane, which knows the models of each node",
    "node": "serve this machine's cache to peers",
    "locate": "list the nodes that have a model",
    "register": "register that a node has a model",
    "withdraw": "undo `loom register`",
    "nodes": "list the nodes of the fleet",
    "models": "list the models of the fleet",
    "doctor": "find problems that slow Loom down or stop it on this machine",
    "config": "show every setting, its value and where it came from",
    "help": "show this page, or a command's: loom help fetch",
}
"""Names of the commands, each with its help: help and docs list the commands from here."""

MODULES = {
    "original": "fetch", "nodes": "fleet", "models": "fleet", "locate": "fleet", "register": "registering",
    "withdraw": "registering", "config": "about", "help": "about", "verify": "lock",
}  # fmt: skip
"""Names of commands that share a module; others have one of their own name. "original": the form without a command."""
