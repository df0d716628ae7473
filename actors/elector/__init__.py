"""Who is supernode."""
