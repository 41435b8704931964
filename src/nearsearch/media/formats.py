"""What a file is: its format by its first bytes, never by its name, and whether it can be read."""

from __future__ import annotations

import re
from typing import Final

from PIL import Image

from nearsearch.errors import MediaError, NotMediaError

_VIDEO: Final = ""  # in the plug-in column: recognised so that the report can name it
_FORMATS: Final = tuple(
    (re.compile(magic, re.DOTALL), name, plugin)
    for name, plugin, magic in (
        # our name, Pillow's plug-in, first bytes; the first match wins
        ("JPEG", "JPEG", rb"\xff\xd8\xff"),
        ("PNG", "PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", "GIF", rb"GIF8[79]a"),
        ("WEBP", "WEBP", rb"RIFF.{4}WEBP"),
        # two letters are too weak: the size of the second header must be one that exists
        ("BMP", "BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        ("TIFF", "TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("JP2", "JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("JXL", "JXL", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"),
        ("ICO", "ICO", rb"\0\0\x01\0[^\0]\0"),
        ("PSD", "PSD", rb"8BPS\0\x01"),
        ("QOI", "QOI", rb"qoif"),
        ("PCX", "PCX", rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
        ("PPM", "PPM", rb"P[1-6f]\s[\s\d#]"),
        # ISO containers: the major brand, or any compatible one where the major is generic
        ("AVIF", "AVIF", rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1|miaf).{4}(?:.{4}){0,16}?avi[fs])"),
        ("HEIC", "HEIF", rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|miaf)"),
        ("CR3", "CR3", rb".{4}ftypcrx "),
        ("3GP", _VIDEO, rb".{4}ftyp3g"),
        ("MOV", _VIDEO, rb".{4}ftypqt  |\0.{3}(?:moov|wide|free|skip|pnot)|.{4}mdat"),
        ("MP4", _VIDEO, rb".{4}ftyp(?!M4[AB] )"),
        ("AVI", _VIDEO, rb"RIFF.{4}AVI "),
        ("WEBM", _VIDEO, rb"\x1a\x45\xdf\xa3.{0,60}?webm"),
        ("MKV", _VIDEO, rb"\x1a\x45\xdf\xa3"),
        ("WMV", _VIDEO, rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("FLV", _VIDEO, rb"FLV\x01"),
        ("MPEG", _VIDEO, rb"\0\0\x01[\xb3\xba]|G.{187}G.{187}G|.{4}G.{191}G.{191}G"),
        ("OGG", _VIDEO, rb"OggS.{0,250}?theora"),
        ("RM", _VIDEO, rb"\.RMF"),
    )
)
_PLUGINS: Final = {name: plugin for _, name, plugin in _FORMATS}


def sniff(data: bytes) -> str | None:
    """Return the format of `data` by its first bytes (``"JPEG"``, ``"MP4"``), None if unknown.

    A name means that the file claims to be this, not that this version can read it.
    """
    return next((name for magic, name, _ in _FORMATS if magic.match(data)), None)


def is_film(name: str | None) -> bool:
    """Return whether what `sniff` called `name` is a film: `media.video` reads it."""
    return name is not None and _PLUGINS[name] == _VIDEO


def effective_profile(data: bytes, profile: str) -> str:
    """Return the simplest profile with the same pixels of `data`: one decode may do for several."""
    return profile if sniff(data) == "JPEG" else "full"


def check_readable(data: bytes) -> tuple[str, str]:
    """Return our name and Pillow's plug-in for a file of which `data` is the beginning.

    Raises
    ------
    NotMediaError
        It is no picture.
    MediaError
        It is a picture that we cannot read.
    """
    name = sniff(data)
    if name is None:
        raise NotMediaError("no known picture format" if data else "empty file")
    plugin = _PLUGINS[name]
    if is_film(name):
        raise NotMediaError(f"a film ({name}), not a picture")
    for load_plugins in (Image.preinit, Image.init):  # the common ones first; all take longer
        if plugin not in Image.OPEN:
            load_plugins()
    if plugin == "HEIF" and plugin not in Image.OPEN:
        _register_heif()
    if plugin not in Image.OPEN:
        raise MediaError(f"{name} needs a plug-in that is not installed", "decode")
    return name, plugin


def _register_heif() -> None:
    """Let Pillow read HEIC: not before such a file is met, as that loads a decoder more."""
    try:
        import pillow_heif
    except ImportError as exc:
        reason = "HEIC needs pillow-heif, which is not installed: pip install pillow-heif"
        raise MediaError(reason, "decode") from exc
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
