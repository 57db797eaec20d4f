"""Cold starts in virtual time, over the code that decides in a real one. Figures of thousands: bench/simulated.py."""

from __future__ import annotations

import pytest

from bench.simulation import Setting, Simulation

MB = 1_000_000


@pytest.mark.parametrize(
    ("setting", "most_copies", "most_of_bound"),
    [
        (Setting(8, 400 * MB), 1.15, 1.5),
        (Setting(6, 300 * MB, origin=100e6), 1.1, 2.2),
        (Setting(8, 400 * MB, killed=2), 1.5, 2.0),
        (Setting(8, 400 * MB, seeds=1), 0.01, 2.0),
        (Setting(1, 400 * MB), 1.01, 1.6),
        (Setting(8, 400 * MB, begin_within_s=6.0), 1.3, 3.0),
        (Setting(48, 60 * MB, link=5e6, origin=20e6, step_s=0.1), 1.1, 1.4),
    ],
    ids=["cold", "slow origin", "two die", "one has it", "alone", "late comers", "more homes than units"],
)
def test_a_cold_start(setting: Setting, most_copies: float, most_of_bound: float) -> None:
    """About one copy from the origin, and not far from the fluid bound; the start of the nodes is part of it."""
    outcome = Simulation(setting).run()
    assert outcome.copies <= most_copies
    assert outcome.ratio <= most_of_bound


def test_an_origin_that_throttles_a_fleet() -> None:
    """It answers four requests at once and refuses the others; each node has its tries, and peers carry the rest."""
    simulation = Simulation(Setting(12, 60 * MB, link=5e6, origin=20e6, step_s=0.1, most_at_origin=4))
    outcome = simulation.run()
    assert simulation.refused > 0
    assert outcome.copies <= 1.2
    assert outcome.ratio <= 3.0
    assert all(node.transfer.error is None for node in simulation.nodes)
