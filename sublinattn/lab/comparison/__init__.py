"""SubGen and the other caches at equal bytes, which no single paper owns; and how they look in figures."""

from ...plots.style import register, variant

register("subgen", "SubGen", "magenta")
register("sinks", "sinks and window", "green")
register("heavy hitters", "heavy hitters (H2O)", "olive")
register("value-norm", "value-norm reservoir", "cyan")
register("k-center", "offline k-center", "indigo")
register("streaming state", "streaming state", "maroon")
variant("subgen, window", "SubGen, half a window", of="subgen")
variant("subgen, hindsight", "SubGen, best settings in hindsight", of="subgen", linestyle="--")
variant("subgen, delta told", r"SubGen, given $\delta$", of="subgen", linestyle="--")
variant("heavy hitters, asked before", "H2O, queried all along", of="heavy hitters")
