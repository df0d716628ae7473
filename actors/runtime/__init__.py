"""The actor framework: machine, actor, mailbox, supervisor, system."""
