"""aiohttp applications: they translate between HTTP and the registry, guard the door, and hold no rules."""
