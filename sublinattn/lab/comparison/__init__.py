"""SubGen and the other caches at equal bytes, which no single paper owns."""

from . import registry  # noqa: F401  registers how the caches look in figures
