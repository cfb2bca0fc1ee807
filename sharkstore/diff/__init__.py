"""What differs between two checkpoints or stores, row by row: figures by table and tier."""

from sharkstore.diff.compare import diff
from sharkstore.diff.model import Difference, Figures, Parameters, Part, TableDifference

__all__ = ["Difference", "Figures", "Parameters", "Part", "TableDifference", "diff"]
