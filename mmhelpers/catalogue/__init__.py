"""A shop that draws itself: specs, pictures, words and the truth about what fits what."""

from mmhelpers.catalogue.relevance import Wanted, WantedItem, fits, grade
from mmhelpers.catalogue.shop import Picture, Query, Shop, build, random_scene
from mmhelpers.catalogue.spec import Item, Scene

__all__ = ["Item", "Picture", "Query", "Scene", "Shop", "Wanted", "WantedItem", "build", "fits", "grade",
           "random_scene"]  # fmt: skip
