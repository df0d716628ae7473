"""What runs here: images, containers, and the services they make."""
