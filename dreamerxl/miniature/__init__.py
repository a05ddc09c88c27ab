"""The embedded diffusion model: a small text-to-image model of a procedural world, trained by this package.

``objects`` holds the catalogue, put together from ``solids``; ``accessories`` are worn and stood on; ``world`` turns what
a prompt can say into scenes; ``tracer`` and ``render`` draw them; ``language`` says what they are called and
``repertoire`` what can be asked for; ``data`` makes the training set; ``architecture`` and ``train`` make the model and
its ``judge``, and ``evaluate`` asks the one about the other. ``weights/`` holds the model in diffusers' own folder format,
so that everything else treats it as one more Stable Diffusion.
"""
