"""Image files of every kind that Pillow writes and people have: odd sizes, modes, depths and orientations."""

import numpy as np
from PIL import Image


def write_odd_images(folder):
    """Writes the files, and returns their paths in order."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)

    def noise(*shape, high=256, dtype=np.uint8):
        coarse = rng.integers(0, high, (*(max(1, side // 8) for side in shape[:2]), *shape[2:])).astype(dtype)
        return coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]

    def save(name, image, **options):
        image.save(folder / name, **options)

    photo = Image.fromarray(noise(600, 800, 3))
    save("photo.jpg", photo)
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"turned_{orientation}.jpg", photo, exif=exif)
    save("turned.png", photo.resize((71, 53)), exif=exif)
    save("cmyk.jpg", photo.convert("CMYK"))
    save("grey.jpg", photo.convert("L"))
    save("rgba.png", Image.fromarray(noise(61, 47, 4)))
    save("grey_alpha.png", photo.resize((47, 61)).convert("LA"))
    save("palette.gif", photo.resize((90, 61)).convert("P"), transparency=3)
    save("bits.png", photo.resize((64, 33)).convert("1"))
    save("deep.png", Image.fromarray(noise(77, 91, high=65536, dtype=np.uint16)))
    save("deep.tiff", Image.fromarray(noise(77, 91, high=65536, dtype=np.uint16)))
    save("lossless.webp", photo.resize((133, 57)), lossless=True)
    save("wide.png", photo.resize((900, 3)))
    save("tall.bmp", photo.resize((2, 700)))
    save("pixel.png", photo.resize((1, 1)))
    return sorted(folder.iterdir())
