"""What a point is made of: normalizations, heads, likelihoods, networks, R runs as one."""
