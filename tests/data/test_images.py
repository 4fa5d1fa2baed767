"""Any picture is read the same way; perceptual hashes tell which ones look alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from samples import picture

from mmhelpers.data.images import LONGEST_SIDE, close_pairs, load_picture, perceptual_hash, store_picture


def odd_pictures() -> dict[str, tuple[Image.Image, dict, Image.Image]]:
    """Name -> a picture in an unusual form, how to save it, and what a person sees, as RGB."""
    seen, size = picture(900, (120, 90)), (120, 90)
    grey, white = ImageOps.autocontrast(seen.convert("L")), Image.new("RGB", size, "white")
    half = Image.new("L", size, 255)
    half.paste(0, (0, 0, 60, 90))  # the left half is transparent
    clear, grey_clear, exif = seen.copy(), grey.convert("LA"), Image.Exif()
    clear.putalpha(half)
    grey_clear.putalpha(half)
    exif[0x0112] = 6  # the camera lay on its side
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 12 + 1000)
    nan = Image.fromarray(np.full((90, 120), np.nan, np.float32))
    best, film = {"quality": 100, "subsampling": 0}, {"save_all": True, "append_images": [picture(901, size)]}
    return {
        "grey.png": (grey, {}, grey.convert("RGB")),
        "print.jpg": (seen.convert("CMYK"), best, seen),
        "alpha.webp": (clear, {"lossless": True}, Image.composite(seen, white, half)),
        "grey-alpha.png": (grey_clear, {}, Image.composite(grey.convert("RGB"), white, half)),
        "palette.gif": (Image.new("P", size, 3), {"transparency": 3}, white),
        "turned.jpg": (seen.transpose(Image.Transpose.ROTATE_90), {"exif": exif, **best}, seen),
        "deep.png": (deep, {}, grey.convert("RGB")),
        "not-a-number.tif": (nan, {}, Image.new("RGB", size)),
        "moving.webp": (seen, {**film, "lossless": True}, seen),
        "moving.gif": (seen, film, seen.quantize(256).convert("RGB")),
        "two-colours.png": (seen.convert("1"), {}, seen.convert("1").convert("RGB")),
        "wide.jpg": (Image.new("RGB", (6000, 60), "red"), {}, Image.new("RGB", (LONGEST_SIDE, 10), "red")),
    }


@pytest.mark.parametrize(("name", "image", "options", "seen"), [(n, *how) for n, how in odd_pictures().items()])
def test_pictures_are_kept_as_a_person_sees_them(tmp_path: Path, name, image, options, seen) -> None:
    image.save(raw := io.BytesIO(), Image.registered_extensions()[Path(name).suffix], **options)
    stored = store_picture(raw.getvalue(), tmp_path / "stored")
    assert stored.suffix == (".jpg" if Path(name).suffix in (".jpg", ".webp") else ".png")
    with Image.open(stored) as file:
        assert (file.mode, file.size) == ("RGB", seen.size)
    assert np.abs(np.asarray(load_picture(stored), dtype=int) - np.asarray(seen)).mean() < 4


def test_a_fingerprint_sees_shape_and_colour() -> None:
    def distance(a: Image.Image, b: Image.Image) -> int:
        return close_pairs(perceptual_hash(a)[None], perceptual_hash(b)[None], 512)[0, 2]

    one, other = picture(1, (200, 160)), picture(2, (200, 160))
    assert distance(one, one) == 0 and distance(one, one.resize((120, 90))) <= 10 < 60 < distance(one, other)
    mugs = (ImageOps.expand(Image.new("RGB", (36, 36), colour), 30, "white") for colour in ("red", "blue"))
    assert distance(*mugs) > 20
