"""Many nodes start cold together, each in a network namespace with a limited link: `python -m bench.swarm`."""
