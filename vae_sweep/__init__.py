"""vae-sweep: what normalization, output head and beta do to a VAE, on one scale."""

__version__ = "0.1.0"
