"""Uploads that a server must refuse: each is a function of a server and a random generator that returns a status."""

import io
import socket
import struct
import zipfile
import zlib

import numpy as np
from live_server import make_form
from PIL import Image


def encode(format, size=(40, 30), **options):
    """Returns an image file as bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(
        buffer, format, **options
    )
    return buffer.getvalue()


PNG, JPEG = encode("PNG"), encode("JPEG")


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height, *more):
    """Returns a PNG that claims a size, and has next to nothing in it."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def text_bomb():
    return png_of(30, 30, png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)))


def zip_bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.jpg", bytes(20_000_000))
    return buffer.getvalue()


BOMB_TEXT, BOMB_ZIP = text_bomb(), zip_bomb()
GIF_HEAD = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x00\x00\x00"


def upload(make):
    """Returns a hostile request that sends what `make(rng)` returns as one file."""
    return lambda server, rng: server.predict(("photo.jpg", make(rng)))[0]


def named(make):
    return lambda server, rng: server.predict((make(rng), PNG))[0]


def form_with_long_part_header(server, rng):
    body, headers = make_form([("photo.png", PNG)])
    return server.request(
        "POST", "/predict", body.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"a" * 500_000 + b"\r\n\r\n", 1), headers
    )[0]


def many_parts(server, rng):
    return server.predict(*[("photo.png", PNG)] * 40)[0]


def many_fields(server, rng):
    part = b'--b\r\nContent-Disposition: form-data; name="field"\r\n\r\nvalue\r\n'
    body = part * 1500 + b"--b--\r\n"
    return server.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=b"})[0]


def wrong_field(server, rng):
    return server.request("POST", "/predict", *make_form([("photo.png", PNG)], field="image"))[0]


def no_form(server, rng):
    return server.request("POST", "/predict", PNG, {"Content-Type": "image/png"})[0]


def no_boundary(server, rng):
    return server.request(
        "POST", "/predict", make_form([("photo.png", PNG)])[0], {"Content-Type": "multipart/form-data"}
    )[0]


def other_boundary(server, rng):
    body, _ = make_form([("photo.png", PNG)])
    return server.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=another"})[0]


def cut_form(server, rng):
    body, headers = make_form([("photo.png", PNG)])
    return server.request("POST", "/predict", body[: int(rng.integers(1, len(body) - 60))], headers)[0]


def wrong_path(server, rng):
    return server.request("POST", "/predict/../../etc/passwd", PNG)[0]


def wrong_method(server, rng):
    return server.request("PUT", "/predict", PNG)[0]


def raw(text, n_parts=1, pause=0.0):
    """Returns a hostile request of these bytes."""

    def send(server, rng):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(text)
            answer = connection.recv(1000)
        return int(answer.split(b" ", 2)[1])

    return send


HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\n"

QUICK = {
    "png that is cut": upload(lambda rng: PNG[: int(rng.integers(40, len(PNG) - 100))]),
    "jpeg that is cut": upload(lambda rng: JPEG[: int(rng.integers(30, len(JPEG) // 2))]),
    "noise": upload(lambda rng: rng.bytes(int(rng.integers(1, 5000)))),
    "png with noise inside": upload(lambda rng: PNG[:60] + rng.bytes(len(PNG) - 60)),
    "empty": upload(lambda rng: b""),
    "text": upload(lambda rng: b"hello"),
    "svg": upload(lambda rng: b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "eps": upload(lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"),
    "pickle": upload(lambda rng: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94."),
    "zip bomb": upload(lambda rng: BOMB_ZIP),
    "png of many pixels": upload(lambda rng: png_of(20_000, 20_000)),
    "png of most pixels": upload(lambda rng: png_of(2**31 - 1, 2**31 - 1)),
    "png with a long text": upload(lambda rng: BOMB_TEXT),
    "gif of many pixels": upload(lambda rng: GIF_HEAD),
    "path": named(lambda rng: "../../etc/passwd"),
    "windows path": named(lambda rng: "..\\\\windows\\\\system32"),
    "dots": named(lambda rng: ".."),
    "escapes": named(lambda rng: b"a\x1b[2Jb.png"),
    "no text": named(lambda rng: "a\u202eb.png"),
    "long name": named(lambda rng: "a" * 3000),
    "long header of a part": form_with_long_part_header,
    "many files": many_parts,
    "many fields": many_fields,
    "wrong field": wrong_field,
    "no form": no_form,
    "no boundary": no_boundary,
    "another boundary": other_boundary,
    "form that is cut": cut_form,
    "wrong path": wrong_path,
    "wrong method": wrong_method,
    "no http": raw(b"hello\r\n\r\n"),
    "long head": raw(HEAD + b"X-Long: " + b"a" * 100_000),
    "negative length": raw(HEAD + b"Content-Length: -1\r\n\r\n"),
    "claims a terabyte": raw(HEAD + b"Content-Length: 1000000000000\r\n\r\n"),
    "two lengths": raw(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
}
LARGE = {"large file": upload(lambda rng: rng.bytes(30_000_000))}
SLOW = {
    "head that never ends": raw(HEAD),
    "nothing": raw(b""),
    "body that never ends": raw(HEAD + b"Content-Length: 1000\r\n\r\nabc"),
}
