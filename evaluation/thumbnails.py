"""Images for a self-contained page: downscaled, re-encoded, inlined as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

MAX_WIDTH, MAX_HEIGHT = 1000, 560
QUALITY = 78


@dataclass(frozen=True)
class Thumbnail:
    """An image of the page; `uri` is empty where it could not be read, and `problem` says why."""

    uri: str
    width: int
    height: int
    name: str
    problem: str = ""


def thumbnail(path: str | Path, max_width: int = MAX_WIDTH, max_height: int = MAX_HEIGHT) -> Thumbnail:
    """Reads an image and encodes it as WebP of at most `max_width` x `max_height` pixels (never enlarged).

    A missing or broken image is no reason to go without a report: the result then says what is wrong.
    """
    from PIL import Image, ImageOps

    name = Path(path).name
    try:
        with Image.open(path) as image:
            image.draft(None, (max_width, max_height))  # JPEG: decode at a fraction of the size
            upright = ImageOps.exif_transpose(image)
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            shown = upright.convert(mode)
            shown.thumbnail((max_width, max_height))
            buffer = io.BytesIO()
            shown.save(buffer, "WEBP", quality=QUALITY, method=4)
    except FileNotFoundError:
        return Thumbnail("", 0, 0, name, "the image file is no longer there")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises on bad files
        return Thumbnail("", 0, 0, name, f"the image cannot be read: {error}")
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri, shown.width, shown.height, name)
