"""What serves only this study: its answers, evidence, figures and published tables."""
