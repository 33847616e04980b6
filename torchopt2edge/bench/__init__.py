"""Times candidates on devices: the runner that goes there and the harness that stays here."""
