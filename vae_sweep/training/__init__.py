"""R runs, from points to rows."""
