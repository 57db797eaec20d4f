"""The orchestrator (loom.fetching.session): runs a core transfer over sources, net and store.

Nothing is imported here, for a process that only hands on a file (loom.fetching.lingering) needs little of it.
"""
