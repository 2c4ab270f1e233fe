"""Results and comparisons for scripts and notebooks: dictionaries that can become data frames or tables of HTML."""

from typing import TYPE_CHECKING, Any, Literal, get_args

from service.client.records import flat_rows, html_table, to_pandas, to_polars
from service.report import as_fragment, tables

if TYPE_CHECKING:
    import pandas
    import polars

ComparisonTable = Literal["cells", "differences"]
ResultTable = Literal["cells", "comparisons", "observations"]


class Results(dict[str, Any]):
    """The results of an experiment as the API returns them."""

    def records(self, table: ResultTable = "cells") -> list[dict[str, Any]]:
        """Return a table as one flat dictionary per row.

        Args:
            table: `cells`: the mean, the interval (`low`, `high`) and the number of seeds of each row and column.
                `comparisons`: the difference of two rows in a column. `observations`: the value of each job.

        Raises:
            ValueError: There is no such table.
        """
        match table:
            case "cells" | "comparisons":
                return flat_rows(self[table])
            case "observations":
                return [
                    {"row": cell["row"], "column": cell["column"], **value}
                    for cell in self["cells"]
                    for value in cell["values"]
                ]
        raise ValueError(f"table is {table!r}, which is none of {', '.join(get_args(ResultTable))}")

    def to_pandas(self, table: ResultTable = "cells") -> "pandas.DataFrame":
        """Return a table as a data frame of pandas, which must be installed; see `records` for the tables."""
        return to_pandas(self.records(table))

    def to_polars(self, table: ResultTable = "cells") -> "polars.DataFrame":
        """Return a table as a data frame of polars, which must be installed; see `records` for the tables."""
        return to_polars(self.records(table))

    def _repr_html_(self) -> str:
        return as_fragment(tables(self))


class Comparison(dict[str, Any]):
    """A comparison of experiments as the API returns it."""

    def records(self, table: ComparisonTable = "differences") -> list[dict[str, Any]]:
        """Return a table as one flat dictionary per row.

        Args:
            table: `differences`: of two experiments, in each cell that both have. `cells`: the mean, the interval
                (`low`, `high`) and the number of seeds of each row and column of each experiment.

        Raises:
            ValueError: There is no such table.
        """
        match table:
            case "differences":
                return flat_rows(self["differences"])
            case "cells":
                return [
                    {"experiment": one["experiment"], "title": one["title"], **cell}
                    for one in self["experiments"]
                    for cell in flat_rows(one["cells"])
                ]
        raise ValueError(f"table is {table!r}, which is none of {', '.join(get_args(ComparisonTable))}")

    def to_pandas(self, table: ComparisonTable = "differences") -> "pandas.DataFrame":
        """Return a table as a data frame of pandas, which must be installed; see `records` for the tables."""
        return to_pandas(self.records(table))

    def to_polars(self, table: ComparisonTable = "differences") -> "polars.DataFrame":
        """Return a table as a data frame of polars, which must be installed; see `records` for the tables."""
        return to_polars(self.records(table))

    def _repr_html_(self) -> str:
        titles = " and ".join(one["title"] for one in self["experiments"])
        return html_table(titles, self.records("cells")) + html_table("Differences", self.records())
