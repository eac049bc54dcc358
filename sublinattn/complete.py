"""What a shell completes besides the names of commands and options: claims, papers, notebooks, models."""

from __future__ import annotations

from collections.abc import Iterator


def complete_claims(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of claims that begin so, with their titles."""
    from .suite.catalogue import catalogue

    return ((claim["id"], claim["title"]) for claim in catalogue() if claim["id"].startswith(incomplete))


def complete_papers(incomplete: str) -> list[str]:
    """Keys of papers with claims."""
    from .suite.catalogue import catalogue

    return sorted({claim["paper"] for claim in catalogue() if claim["paper"].startswith(incomplete)})


def complete_notebooks(incomplete: str) -> list[str]:
    """Names of the notebooks that `sublinattn run` runs by default."""
    from .suite.catalogue import notebooks

    return sorted(path.stem for path in notebooks().glob(f"{incomplete}*.ipynb"))


def complete_models(incomplete: str) -> list[str]:
    """Names of the models that have one."""
    return [name for name in ("tiny", *complete_fetchable("")) if name.startswith(incomplete)]


def complete_fetchable(incomplete: str) -> list[str]:
    """Names of the models that can be fetched."""
    from .lm.fetch import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]
