"""A shop that draws itself: specs, pictures, words and the truth about what fits what."""

from mmhelpers.shop.spec import Item, Scene, differences
from mmhelpers.shop.stock import Picture, Query, Shop, build, generic_scene
from mmhelpers.shop.wanted import Wanted, WantedItem, fits

__all__ = [
    "Item", "Picture", "Query", "Scene", "Shop", "Wanted", "WantedItem", "build", "differences", "fits",
    "generic_scene",
]  # fmt: skip
