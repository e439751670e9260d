"""A submission by a notebook without internet: the bundle that it needs, and what it runs."""
