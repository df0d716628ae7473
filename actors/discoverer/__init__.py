"""Who is near."""
