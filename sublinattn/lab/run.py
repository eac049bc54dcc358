"""What a notebook and its studies share: effort, seed, backend, and the folder of verdicts, rows and figures."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..core import backends, files
from . import cluster, ledger, parameters

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..theory.claim import Claim
    from .models import Model

T = TypeVar("T")
_PIXELS_PER_INCH = 130  # of a figure on a notebook's page; its file has more


def generator(seed: int, *labels: Any) -> np.random.Generator:
    """The draws of one measurement: they depend on the seed and the labels alone, not on the order of work."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, labels)).encode())])


def _on_one_thread(cell: Callable[..., T], run: Run, item: tuple[Any, ...]) -> T:
    from ..theory.trials import one_thread

    with one_thread():
        return cell(run, *item)


@dataclass(frozen=True)
class Run:
    """The parameters of one run of a notebook.

    Attributes
    ----------
    effort : "smoke", "standard" or "full"
        How much is measured: `pick` chooses sizes by it.
    seed : int
        Seed of all draws.
    backend : "auto", "numpy" or "cupy"
        Where arrays live.
    out : path
        Folder of the results: `verdicts/`, `rows/` and `figures/`.
    notebook : str
        Name of the notebook, for the links of the report.
    knobs : mapping
        The notebook's other parameters; what is given of them is recorded beside each figure and in its rows. Those in
        `parameters.NOTEBOOKS` are checked, a wrong one is a ValueError that says what the parameter takes.

    Examples
    --------
    >>> import tempfile
    >>> from sublinattn.lab.run import Run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run(effort="smoke", out=folder)
    ...     table = run.check("rs21.merge")
    ...     rows = run.rows("rs21.merge")
    >>> table.outcome.tolist(), len(rows) > 0
    (['supported'], True)
    """

    effort: str = "smoke"
    seed: int = 0
    backend: str = "auto"
    out: str | os.PathLike[str] = "out"
    notebook: str | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.effort not in ("smoke", "standard", "full"):
            raise ValueError(f"effort must be 'smoke', 'standard' or 'full', got {self.effort!r}")
        object.__setattr__(self, "knobs", parameters.checked(self.notebook, self.knobs))
        if self.notebook is not None:
            parameters.refuse_unknown(self.notebook, self.knobs)

    @classmethod
    def of(cls, notebook: str, names: Mapping[str, Any]) -> Run:
        """The run that a notebook's cell of parameters describes: `run = Run.of("03-spectral-error", globals())`.

        Raises
        ------
        ValueError
            A parameter of the wrong type or out of range, or papermill was given one that the notebook does not have.
        """
        common, knobs = parameters.from_cell(notebook, names)
        return cls(**common, notebook=notebook, knobs=knobs)

    @property
    def xp(self) -> Any:
        """The array namespace of the backend."""
        return backends.backend(self.backend)

    def pick(self, *, smoke: T, standard: T, full: T) -> T:
        """The value for this effort."""
        return {"smoke": smoke, "standard": standard, "full": full}[self.effort]

    def given(self, name: str, default: Any) -> Any:
        """The parameter with this name where the user has set it, else `default`, which mostly is what `pick` gives.

        A parameter that takes several values is a tuple.
        """
        value = self.knobs.get(name)
        return default if value is None else value

    def rng(self, *labels: Any) -> np.random.Generator:
        """The draws of the measurement with these labels: see `generator`."""
        return generator(self.seed, *labels)

    def map(self, cell: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> list[T]:
        """`[cell(run, *item) for item in items]`, on the workers where the run has a cluster; the order is kept.

        `cell` is a function of a module, which takes its draws from `run.rng` by labels, and writes no file.
        """
        with cluster.of_run(self.backend) as workers:
            if workers is None:
                return [cell(self, *item) for item in items]
            run = replace(self, backend=self.xp.__name__)  # the client's, whatever a worker has besides
            return [each.result() for each in [workers.submit(_on_one_thread, cell, run, item) for item in items]]

    def table(
        self, cell: Callable[..., Sequence[Any]], items: Iterable[tuple[Any, ...]], columns: list[str]
    ) -> pd.DataFrame:
        """The rows that `cell(run, *item)` returns, those of the first item first; cells run as those of `map` do."""
        import pandas as pd

        return pd.DataFrame([row for rows in self.map(cell, items) for row in rows], columns=columns)

    def open_model(self) -> Model:
        """The decoder that the knobs `model` and `text` name: by default the one that ships."""
        from .models import open_model

        return open_model(self.knobs.get("model", "tiny"), self.knobs.get("text", ""), backend=self.backend)

    # ------------------------------------------------------------------------------------------------------- verdicts
    def check(self, *claims: str | Claim) -> pd.DataFrame:
        """Verify claims and write `verdicts/<id>.json` and `rows/<id>.parquet`: see `ledger.check`.

        A claim is an id of the suite's, or a `Claim` of your own. Claims about a trained decoder are verified on the
        one that the knob `model` names, on the text that comes with it. Where the run has a cluster, its workers make
        the trials.
        """
        with cluster.of_run(self.backend) as executor:
            return ledger.check(
                [self._stated(claim) for claim in claims],
                effort=self.effort,
                seed=self.seed,
                backend=self.backend,
                out=self.out,
                notebook=self.notebook,
                executor=executor,
            )

    def _stated(self, claim: str | Claim) -> Claim:
        """This claim, or the one with this id, about the run's model if it is about a trained decoder."""
        from ..theory import find

        return (find(claim) if isinstance(claim, str) else claim).on(self.knobs.get("model", "tiny"))

    def checked(self) -> list[str]:
        """Ids of the claims that have a verdict in `out`, in the order of `theory.CLAIMS`."""
        from ..theory import CLAIMS

        return [claim for claim in CLAIMS if (Path(self.out) / "verdicts" / f"{claim}.json").exists()]

    def record(self, claim: str | Claim) -> dict[str, Any]:
        """The ledger's entry on a claim that this run has checked, this machine's numbers in their places."""
        path = self._checked("verdicts", f"{self._stated(claim).id}.json")
        with files.reading(path, "a verdict"):
            record = files.read_json(path)
            return {**record, **record["machine"]}

    def rows(self, claim: str | Claim) -> pd.DataFrame:
        """Every trial of a claim that this run has checked: see `theory.result.Verdict.rows` for the columns."""
        return files.read_rows(self._checked("rows", f"{self._stated(claim).id}.parquet"))

    def _checked(self, folder: str, name: str) -> Path:
        path = Path(self.out) / folder / name
        if not path.exists():
            raise FileNotFoundError(f"no {folder}/{name} in {self.out}: check the claim before it is shown")
        return path

    def fits(self, *claims: str) -> pd.DataFrame:
        """Exponents of growth claims that this run has checked.

        Returns
        -------
        DataFrame
            claim, variable, theory (LaTeX), measured, lower, upper (99 percent limits, each side), theory_exponent
            (over the same grid), outcome.
        """
        import pandas as pd

        fits = pd.DataFrame([{"claim": claim, **fit} for claim in claims for fit in self.record(claim)["fits"]])
        fits = fits.rename(columns={"measured_exponent": "measured"})
        numbers = ["measured", "lower", "upper", "theory_exponent"]
        return fits.astype(dict.fromkeys(numbers, float))[["claim", "variable", "theory", *numbers, "outcome"]]

    def sizes(self, *claims: str) -> pd.DataFrame:
        """What was fitted: claim, variable, x, replicate, size (inf where none was found up to the cap)."""
        import pandas as pd

        lines = [
            (claim, fit["variable"], float(x), replicate, float(size))
            for claim in claims
            for fit in self.record(claim)["fits"]
            for x, sizes in zip(fit["abscissas"], fit["sizes"], strict=True)
            for replicate, size in enumerate(sizes)
        ]
        return pd.DataFrame(lines, columns=["claim", "variable", "x", "replicate", "size"])

    # -------------------------------------------------------------------------------------------------------- figures
    def publish(
        self,
        fig: Figure,
        name: str,
        rows: pd.DataFrame,
        *,
        caption: str,
        claim: str | Claim | Sequence[str | Claim] | None = None,
        data: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
        measured: str | None = None,
        by: Sequence[str | None] = (),
    ) -> None:
        """Save a figure and its rows, and show it in the notebook.

        `rows` are the measurements, one per line: `rows/<name>.parquet`, with a column for every parameter that was
        given. `data` are the plotted numbers for the figure's JSON file, where they are not the rows. The report shows
        the figure on the pages of the claims `claim`, those about a trained decoder being about the run's model.

        `measured` is the column of `rows` that `sublinattn run --sweep` shows over the swept parameter. `by` are the
        columns that tell its measurements apart: that of the lines, that of the panels, and columns of numbers (such
        as a budget) of which the sweep shows one value that all of its runs have. None in the place of a column: there
        is only one line, or one panel.
        """
        from IPython.display import Image, Markdown, display

        from ..plots.captions import title
        from ..plots.save import save
        from ..theory.claim import Claim

        claims = [self._stated(each).id for each in ([claim] if isinstance(claim, str | Claim) else claim or [])]
        set_knobs = {key: value for key, value in self.knobs.items() if value is not None}
        given = parameters.changed(self.notebook, self.knobs)
        values = {key: ", ".join(map(str, x)) if isinstance(x, tuple) else x for key, x in given.items()}
        rows = rows.assign(**{key: value for key, value in values.items() if key not in rows})
        files.write_rows(rows, name, out=self.out)
        paths = save(
            fig,
            name,
            out=self.out,
            claim=claims,
            params={"effort": self.effort, "notebook": self.notebook, **set_knobs},
            seed=self.seed,
            data=rows if data is None else data,
            caption=caption,
            backend=self.backend,
            swept=[measured, *by] if measured else (),
        )
        width = round(fig.get_figwidth() * _PIXELS_PER_INCH)
        display(Image(filename=str(paths["png"]), width=width, alt=title(caption)), Markdown(f"**{name}.** {caption}"))
