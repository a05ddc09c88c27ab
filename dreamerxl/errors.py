"""Errors whose text is written for the person who asked for the run.

Every one is a full sentence: which field or file, what came, what would be accepted. The page, the command line
and the run folder show ``str(error)`` and nothing else.
"""


class DreamerError(Exception):
    """Something the visitor, not the programmer, can mend."""


class SettingsError(DreamerError):
    """A setting is unknown, of the wrong type or out of range."""


class WeightsError(DreamerError):
    """A diffusion model is missing, incomplete or of a kind that is not supported."""


class DeviceError(DreamerError):
    """The hardware that the settings ask for is not there."""


class SceneFileError(DreamerError):
    """A file of points or Gaussians cannot be read."""


class RunFolderError(DreamerError):
    """A run folder cannot be created, written or read."""


class NumericalError(DreamerError):
    """A latent, gradient or parameter is not finite; names the stage where it was first seen."""
