"""Text to 3D by trajectory score matching: the system of the Dreamer XL paper, live in a browser."""

__version__ = "0.1.0"
