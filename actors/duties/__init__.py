"""The duties of a supernode: registrar and proxy."""
