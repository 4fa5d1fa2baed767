"""Pictures with text, from anywhere, in one schema."""

from mmhelpers.data.folder import Row, read_folder
from mmhelpers.data.problems import DataError
from mmhelpers.data.schema import SPLITS, Collection, Retrieval, load, paths, save
from mmhelpers.data.sources import MIN_ROWS, from_folder, from_shop, near_duplicates, open_source

__all__ = [
    "MIN_ROWS", "SPLITS", "Collection", "DataError", "Retrieval", "Row", "from_folder", "from_shop", "load",
    "near_duplicates", "open_source", "paths", "read_folder", "save",
]  # fmt: skip
