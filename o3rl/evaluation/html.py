"""What all pages share: templates, one style sheet and script, pictures embedded as JPEG.

A page asks no network, and its policy lets no script run but the one whose digest it names.
"""

import base64
import hashlib
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

JPEG_QUALITY = 82


def jpeg(frame: np.ndarray) -> bytes:
    """A frame, uint8 [height, width, 3], as JPEG."""
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return out.getvalue()


def base64_of(content: bytes) -> str:
    """As it stands in a page."""
    return base64.b64encode(content).decode()


def data_url(content: bytes, kind: str) -> str:
    """An address that holds the content itself, of this media type."""
    return f"data:{kind};base64,{base64_of(content)}"


def _source(name: str) -> Markup:
    """A style sheet or script of ours, as it is."""
    loader, environment = PackageLoader("o3rl"), Environment(autoescape=True)
    return Markup(loader.get_source(environment, name)[0])


def policy() -> str:
    """Nothing from anywhere, and no script but the one whose digest this is."""
    script = base64_of(hashlib.sha256(_source("page.js").encode()).digest())
    return (
        "default-src 'none'; img-src data:; media-src blob:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def environment() -> Environment:
    """The templates, escaped everywhere, with our style sheet and script."""
    made = Environment(
        loader=PackageLoader("o3rl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["style"] = _source("style.css")
    made.globals["script"] = _source("page.js")
    return made
