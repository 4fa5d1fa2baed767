"""Pictures with text, from anywhere, in one schema."""

from mmhelpers.data.folder import DataError, Row, read_folder
from mmhelpers.data.schema import (
    Collection,
    Retrieval,
    from_catalogue,
    from_folder,
    load,
    near_duplicates,
    open_source,
    paths,
    save,
)
from mmhelpers.data.splits import MIN_ROWS, SPLITS

__all__ = [
    "MIN_ROWS", "SPLITS", "Collection", "DataError", "Retrieval", "Row", "from_catalogue", "from_folder", "load",
    "near_duplicates", "open_source", "paths", "read_folder", "save",
]  # fmt: skip
