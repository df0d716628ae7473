"""What runs here: images, containers, and the services they make.

Others use `container_manager.ContainerManager` and `order`, the messages in `messages.py`, the errors in `errors.py`,
and, without actors, `containers.Containers`.
"""
