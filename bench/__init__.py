"""The benchmark and the demo: Loom beside other tools, against real servers on loopback."""
