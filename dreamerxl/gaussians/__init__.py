"""A scene of 3D Gaussians: its parameters, its picture, its growth and its files."""
