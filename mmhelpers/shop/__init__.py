"""A shop that draws itself: specs, pictures, words and the truth about what fits what."""

from mmhelpers.shop.spec import Item, Scene, differences
from mmhelpers.shop.stock import Picture, Query, Shop, build, random_scene
from mmhelpers.shop.wanted import Wanted, WantedItem, fits, grade

__all__ = [
    "Item", "Picture", "Query", "Scene", "Shop", "Wanted", "WantedItem", "build", "differences", "fits",
    "grade", "random_scene",
]  # fmt: skip
