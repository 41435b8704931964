"""Small pictures of every format, archives of them, and what can be done to such files.

All of it follows from a seed. Nothing here was ever seen in the wild: pictures are noise, and what
is harmful about a bomb is its arithmetic.
"""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from nearsearch.synthetic import make_picture

EXIF_TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
MIB = 1 << 20


# --- pictures ---------------------------------------------------------------------------------


@cache
def _pixels(seed, width=48, height=36):
    return make_picture(seed, "leaves", width, height)


def picture(seed=0, width=48, height=36, mode="RGB"):
    return Image.fromarray(_pixels(seed, width, height)).convert(mode)


def _saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed=0):
    """A picture that is distinct by its seed."""
    return _saved(picture(seed), "PNG")


@cache
def pictures():
    """Name to bytes: a picture of every format that is read, in the ways it is written."""

    def several():  # new ones each time: Pillow leaves traces of one format for the next
        return {"save_all": True, "append_images": [picture(1), picture(2)]}

    deep = Image.fromarray((np.asarray(picture(0, mode="L"), np.uint16) * 257).astype(np.uint16))
    made = {
        "baseline.jpg": _saved(picture(), "JPEG", quality=80),
        "progressive.jpg": _saved(picture(), "JPEG", progressive=True, subsampling=0),
        "cmyk.jpg": _saved(picture(mode="CMYK"), "JPEG"),
        "grey.jpg": _saved(picture(mode="L"), "JPEG", optimize=True),
        "exif.jpg": _saved(picture(), "JPEG", exif=EXIF_TURNED),
        "two.mpo": _saved(picture(), "MPO", **several()),
        "interlaced.png": _interlaced_png(),
        "apng.png": _saved(picture(), "PNG", **several()),
        "deep.png": _saved(deep, "PNG"),
        "animated.gif": _saved(picture(), "GIF", **several(), duration=50),
        "still.gif": _saved(picture(mode="P"), "GIF", transparency=3),
        "lossy.webp": _saved(picture(), "WEBP", quality=70, exif=EXIF_TURNED),
        "lossless.webp": _saved(picture(mode="RGBA"), "WEBP", lossless=True),
        "animated.webp": _saved(picture(), "WEBP", **several()),
        "palette.bmp": _saved(picture(mode="P"), "BMP"),
        "colour.bmp": _saved(picture(), "BMP"),
        "pages.tif": _saved(picture(), "TIFF", **several(), compression="tiff_lzw"),
        "fax.tif": _saved(picture(mode="1"), "TIFF", compression="group4"),
        "float.tif": _saved(picture(mode="F"), "TIFF"),
        "still.avif": _saved(picture(), "AVIF", quality=60, speed=10),
        "animated.avif": _saved(picture(), "AVIF", **several(), speed=10),
        "lossless.jp2": _saved(picture(), "JPEG2000"),
        "stream.j2k": _saved(picture(mode="L"), "JPEG2000", no_jp2=True),
        "icons.ico": _saved(picture(0, 64, 64), "ICO", sizes=[(16, 16), (48, 48)]),
        "raw.ppm": _saved(picture(), "PPM"),
        "plain.pcx": _saved(picture(), "PCX"),
    }
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        made[f"{mode}.png"] = _saved(picture(mode=mode), "PNG")
    for name in ("raw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        made[f"{name}.tif"] = _saved(picture(), "TIFF", compression=name)
    return made


def chunk(name, data):
    """A chunk of a PNG."""
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _header(width, height, depth=8, colour=2, interlace=0):
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    )


def _interlaced_png():
    """Pillow reads them, and writes none: seven passes of rows, none filtered."""
    pixels = np.asarray(picture())
    rows = []
    for x, y, dx, dy in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ):
        rows += [b"\0" + row.tobytes() for row in pixels[y::dy, x::dx]]
    height, width = pixels.shape[:2]
    data = zlib.compress(b"".join(rows))
    return _header(width, height, interlace=1) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# --- archives ---------------------------------------------------------------------------------


def zip_of(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tar_of(files, kind=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def some_archives(rng, count=3):
    """Name to (bytes, names of the members): archives of a few pictures, of each kind."""
    known = pictures()

    def some():
        return {name: known[name] for name in rng.sample(sorted(known), count)}

    plain, inner = some(), {"a.png": png(7), "note.txt": b"hello"}
    one = rng.choice(sorted(known))
    nested = {"in.zip": zip_of(inner), "in.tar.gz": gzip.compress(tar_of(inner), mtime=0), **plain}
    deep = [f"in.zip!{name}" for name in inner] + [f"in.tar.gz!{name}" for name in inner]
    made = {
        "plain.zip": (zip_of(plain), plain),
        "stored.zip": (zip_of(plain, zipfile.ZIP_STORED), plain),
        "lzma.zip": (zip_of(plain, zipfile.ZIP_LZMA), plain),
        "plain.tar": (tar_of(plain), plain),
        "gnu.tar": (tar_of({"n" * 150 + ".png": png(1), **plain}, tarfile.GNU_FORMAT), None),
        "plain.tgz": (gzip.compress(tar_of(plain), mtime=0), plain),
        "plain.tar.bz2": (bz2.compress(tar_of(plain)), plain),
        "plain.tar.xz": (lzma.compress(tar_of(plain)), plain),
        "plain.tar.zst": (zstd(tar_of(plain)), plain),
        f"{one}.gz": (gzip.compress(known[one], mtime=0), [one]),
        "nested.zip": (zip_of(nested), [*deep, *plain]),
        "nested.tar": (tar_of(nested), [*deep, *plain]),
    }
    made["gnu.tar"] = (made["gnu.tar"][0], ["n" * 150 + ".png", *plain])
    return {name: (data, sorted(names)) for name, (data, names) in made.items()}


# --- mutations --------------------------------------------------------------------------------


def _flip(rng, data, _):
    for _ in range(rng.choice([1, 1, 3, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(rng, data, _):
    return data[: rng.randrange(len(data))]


def _cut_front(rng, data, _):
    return data[rng.randrange(1, 64) :]


def _edit_header(rng, data, _):
    """Put numbers that mean something to somebody into the beginning, or into the end."""
    number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 60_000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63])
    piece = number.to_bytes(8, rng.choice(["little", "big"])).strip(b"\0")[:8] or b"\0"
    piece = piece.rjust(rng.choice([1, 2, 4, 8]), b"\0")
    at = rng.randrange(min(len(data), 128))
    if rng.random() < 0.2:
        at = max(0, len(data) - 1 - at)
    data[at : at + len(piece)] = piece
    return data


def _splice(rng, data, others):
    other = others[rng.choice(sorted(others))]
    middle, from_ = rng.randrange(len(data)), rng.randrange(len(other))
    return data[:middle] + other[from_:]


def _transplant(rng, data, others):
    """Overwrite a part with a part of another file."""
    other = others[rng.choice(sorted(others))]
    from_, at = rng.randrange(len(other)), rng.randrange(len(data))
    piece = other[from_ : from_ + rng.randrange(1, 200)]
    data[at : at + len(piece)] = piece
    return data


def _append(rng, data, others):
    junk = rng.choice([rng.randbytes(1000), b"\0" * 5000, others[rng.choice(sorted(others))]])
    return data + junk


def _zero(rng, data, _):
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([16, 512, 4096, len(data)]))
    data[start:stop] = bytes(stop - start)
    return data


def _repeat(rng, data, _):
    start = rng.randrange(len(data))
    return data[: start + rng.randrange(1, 300)] + data[start:]


MUTATIONS = (_flip, _cut, _cut_front, _edit_header, _splice, _transplant, _append, _zero, _repeat)


def mended(data):
    """Give a PNG the checksums that its chunks should have, so that what is in them counts."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def mutated(seed, number):
    """The file of this number: name and bytes; two in three are pictures."""
    rng = random.Random(f"{seed} {number}")
    others = dict(pictures())
    if rng.random() < 0.33:
        others |= {name: data for name, (data, _) in _archives(rng.randrange(8)).items()}
        name = rng.choice(sorted(set(others) - set(pictures())))
    else:
        name = rng.choice(sorted(others))
    data = bytearray(others[name])
    for mutate in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
        data = mutate(rng, bytearray(data), others) or bytearray(b"\0")
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = mended(data)
    if rng.random() < 0.05:
        name = rng.choice(["evidence", "x.zip", "x.jpg", "x.tar", "x.gz"])
    return f"{number:05} {name}", bytes(data)


@cache
def films():
    """Name to bytes: short films in the usual containers and codecs."""
    import av

    kinds = {
        "a.mp4": ("mp4", "libx264"),
        "b.mov": ("mov", "mpeg4"),
        "c.mkv": ("matroska", "libx264"),
        "d.webm": ("webm", "libvpx-vp9"),
        "e.avi": ("avi", "mpeg4"),
        "f.ts": ("mpegts", "mpeg2video"),
        "g.mpg": ("mpeg", "mpeg2video"),
        "h.flv": ("flv", "flv"),
        "i.wmv": ("asf", "wmv2"),
        "j.mp4": ("mp4", "libx265"),
    }
    made = {}
    for name, (container, codec) in kinds.items():
        if codec not in av.codecs_available:
            continue
        with tempfile.NamedTemporaryFile() as file:
            with av.open(file.name, "w", format=container) as output:
                stream = output.add_stream(codec, rate=10)
                stream.width, stream.height, stream.gop_size = 96, 64, 8
                stream.pix_fmt = "yuv420p"
                for number in range(24):
                    pixels = np.roll(_pixels(ord(name[0]) + number // 8, 96, 64), number, axis=1)
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                output.mux(stream.encode(None))
            made[name] = Path(file.name).read_bytes()
    return made


def mutated_film(seed, number):
    """The film of this number: name and bytes."""
    rng = random.Random(f"film {seed} {number}")
    name = rng.choice(sorted(films()))
    data = bytearray(films()[name])
    for mutate in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
        data = mutate(rng, bytearray(data), films()) or bytearray(b"\0")
    return f"{number:05} {name}", bytes(data)


@cache
def _archives(seed):
    return some_archives(random.Random(seed), 2)


# --- bombs ------------------------------------------------------------------------------------


def _zeros_deflated(count, beginning=b""):
    """A raw deflate stream of `beginning`, then `count` MiB of zeros, made in a moment."""
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = first.compress(beginning) + first.flush(zlib.Z_FULL_FLUSH)
    one = zlib.compressobj(9, zlib.DEFLATED, -15)
    mib = one.compress(bytes(MIB)) + one.flush(zlib.Z_FULL_FLUSH)
    return head + mib * count + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def _gzip_of_zeros(count, beginning=b""):
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
    return header + _zeros_deflated(count, beginning) + bytes(8)


def _zip_record(name, data, size, crc=0, method=8, offset=0):
    """The local header with its data, and the record of the directory."""
    shared = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(data), size, len(name), 0)
    local = b"PK\x03\x04" + shared + name + data
    record = b"PK\x01\x02\x14\0" + shared + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name
    return local, record


def _zip_end(records, n, start):
    n = min(n, 0xFFFF)  # what there really is counts
    return records + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, n, n, len(records), start, 0)


def _zip_bomb(count, beginning=b""):
    data = _zeros_deflated(count, beginning)
    local, record = _zip_record(b"zeros.png", data, count * MIB + len(beginning))
    return local + _zip_end(record, 1, len(local))


def _overlapping_zip(n, count):
    """Many entries of the same bytes."""
    local, record = _zip_record(b"0000.png", _zeros_deflated(count, _header(9, 9)), count * MIB)
    records = b"".join(record.replace(b"0000", b"%04d" % number) for number in range(n))
    return local + _zip_end(records, n, len(local))


def _many_members(n):
    local, record = _zip_record(b"000000.jpg", b"", 0, method=0)
    records = b"".join(record.replace(b"000000", b"%06d" % number) for number in range(n))
    return local + _zip_end(records, n, len(local))


def _nested(depth):
    data = zip_of({"core.png": png(5)})
    for level in range(depth):
        data = zip_of({f"{level}.zip": data, f"{level}.png": png(level)})
    return data


def _tar_claiming(size):
    member = tarfile.TarInfo("huge.png")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + png(1)


def _tiff_claiming(width, height):
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height)),
        (279, 4, 1, 16),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)


def _jpeg_claiming(width, height):
    data = bytearray(pictures()["baseline.jpg"])
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def _bmp_claiming(width, height):
    data = bytearray(pictures()["colour.bmp"])
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def _webp_claiming(width, height):
    body = b"VP8X" + struct.pack("<IB3x", 10, 2)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += pictures()["lossless.webp"][12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _gif_claiming(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + pictures()["still.gif"][10:]


def _png_with(name, head, count):
    """A picture with a compressed chunk of `count` MiB of zeros."""
    data = pictures()["RGB.png"]
    stream = b"\x78\x9c" + _zeros_deflated(count) + bytes(4)
    return data[:33] + chunk(name, head + stream) + data[33:]


def bombs(members=100_000):
    """Name to bytes: small files that claim or hold far too much."""
    side = 60_000
    rows = zlib.compress(bytes(side // 8 + 1) * 8)
    return {
        "claims.png": _header(side, side, 1, 0) + chunk(b"IDAT", rows) + chunk(b"IEND", b""),
        "claims.gif": _gif_claiming(side, side),
        "claims.webp": _webp_claiming(side, side),
        "claims.tif": _tiff_claiming(side, side),
        "claims.jpg": _jpeg_claiming(side, side),
        "claims.bmp": _bmp_claiming(side, side),
        "text.png": _png_with(b"zTXt", b"Comment\0\0", 300),
        "texts.png": _png_with(b"iTXt", b"Comment\0\1\0\0\0", 300),
        "profile.png": _png_with(b"iCCP", b"icc\0\0", 300),
        "zeros.zip": _zip_bomb(1024),
        "zeros in a picture.zip": _zip_bomb(900, _header(side, side)),
        "overlap.zip": _overlapping_zip(300, 4),
        "deep.zip": _nested(12),
        "zeros.tar.gz": _gzip_of_zeros(1024, _tar_claiming(1 << 30)[:512]),
        "nothing.tar.gz": _gzip_of_zeros(512, tar_of({"a.png": png(1)})),
        "zeros.png.gz": _gzip_of_zeros(2048, _header(side, side)),
        "zeros.gz": _gzip_of_zeros(2048),
        "members.zip": _many_members(members),
        "exabytes.tar": _tar_claiming(1 << 62),
        "more.tar": _tar_claiming(1 << 80),
        "layers.gz": gzip.compress(gzip.compress(gzip.compress(_gzip_of_zeros(2048)))),
    }
