"""Figures: one style, one way to save, one function per kind of figure."""

from .ablation import ablation_curves, ablation_parts, ablation_settings
from .caches import cache_errors, needles_found
from .clusterability import clusters_over_delta, clusters_over_n, kcenter_curves, online_radius
from .collision import collision_curves
from .contrast import dropped_assumptions, dropped_in_claims, sabotage_overview
from .cost import stage_breakdown, time_and_memory
from .critical import critical_sizes, growths
from .crossing import crossing_lengths
from .degree import degree_curves, rank_growth
from .errors import error_against_budget, error_by_position
from .flat import compressibility, falling_errors, flat_outputs, psi_rows
from .hardness import column_profile, hardness_over_n
from .heads import head_maps
from .line_retrieval import retrieval_over_bytes, retrieval_over_length
from .matrix import sorted_matrix
from .model_clusters import projections
from .model_hardness import heads_over_n
from .onepass import streaming_over_n
from .perplexity import bits_over_context, perplexity_for_time, perplexity_over_layers
from .phase import phase_curves, phase_maps
from .polynomial import error_over_degree
from .recovery import recovery_excess
from .recursion import recursion_map
from .save import save
from .shares import mask_shares
from .style import COLUMN, METHODS, OKABE_ITO, PAGE, THEORY, method, paper_style
from .subgen_cost import rows_per_chunk, subgen_over_n
from .subgen_laws import estimator_errors, held_laws, ratio_bias, tau_bound

__all__ = [
    "COLUMN",
    "METHODS",
    "OKABE_ITO",
    "PAGE",
    "THEORY",
    "ablation_curves",
    "ablation_parts",
    "ablation_settings",
    "bits_over_context",
    "cache_errors",
    "clusters_over_delta",
    "clusters_over_n",
    "collision_curves",
    "column_profile",
    "compressibility",
    "critical_sizes",
    "crossing_lengths",
    "degree_curves",
    "dropped_assumptions",
    "dropped_in_claims",
    "error_against_budget",
    "error_by_position",
    "error_over_degree",
    "estimator_errors",
    "falling_errors",
    "flat_outputs",
    "growths",
    "hardness_over_n",
    "head_maps",
    "heads_over_n",
    "held_laws",
    "kcenter_curves",
    "mask_shares",
    "method",
    "online_radius",
    "paper_style",
    "needles_found",
    "perplexity_for_time",
    "perplexity_over_layers",
    "phase_curves",
    "phase_maps",
    "projections",
    "psi_rows",
    "rank_growth",
    "ratio_bias",
    "recovery_excess",
    "recursion_map",
    "retrieval_over_bytes",
    "retrieval_over_length",
    "rows_per_chunk",
    "sabotage_overview",
    "save",
    "sorted_matrix",
    "stage_breakdown",
    "streaming_over_n",
    "subgen_over_n",
    "tau_bound",
    "time_and_memory",
]
