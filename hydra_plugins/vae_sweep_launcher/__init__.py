"""Hydra finds the launcher and the sweeper of vae-sweep here."""
