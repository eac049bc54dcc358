"""Building blocks that several papers share; each names its source."""
