"""The back end, as actors: directory, signaling, enrolment."""
