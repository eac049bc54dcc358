"""The experiments behind the notebooks' figures: seeded functions that give tidy tables, one measurement per row."""
