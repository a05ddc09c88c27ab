"""The embedded diffusion model: a small text-to-image model of procedural objects, trained by this package.

``objects`` builds ten objects from signed distances, ``render`` draws them, ``language`` says what they are called,
``data`` makes the training set, ``architecture`` and ``train`` make the model, and ``weights/`` holds it in diffusers'
own folder format, so that everything else treats it as one more Stable Diffusion.
"""
