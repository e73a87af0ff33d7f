"""Fill this folder with the PP-OCRv4 recognition model and rendered lines of text to feed it.

The model ships inside the package rapidocr-onnxruntime, the fonts inside three font packages:
nothing is downloaded. The same seed, Pillow and fonts give the same bytes.

    model.onnx                 one line of text (N,3,48,W) -> CTC probabilities (N,T,6625)
    shards/*.npz               calibration lines, {"x": (16,3,48,320) float32}
    validation/*.npz           other lines of the same kind
    validation/labels.json     what they say, {"<file stem>:<row>": text}
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
except ModuleNotFoundError as error:
    print(f"error: {error}; pip install 'trtbuild[demo]'", file=sys.stderr)
    raise SystemExit(3) from None

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH = 48, 320
SHARD_SIZE = 16
FONTS = {
    "font_roboto": [
        "Roboto-Light.ttf",
        "Roboto-Regular.ttf",
        "Roboto-Italic.ttf",
        "Roboto-Bold.ttf",
    ],
    "font_source_sans_pro": [
        "SourceSansPro-Light.ttf",
        "SourceSansPro-Regular.ttf",
        "SourceSansPro-It.ttf",
        "SourceSansPro-Semibold.ttf",
    ],
    "font_source_serif_pro": [
        "SourceSerifPro-Regular.ttf",
        "SourceSerifPro-It.ttf",
        "SourceSerifPro-Semibold.ttf",
        "SourceSerifPro-Bold.ttf",
    ],
}
WORDS = """
    account address amount april august bank battery bridge building camera careful centre chapter
    coffee company corner country credit customer december delivery dinner direct discount driver
    electric engine entrance evening express factory february flight forward garden gate general grand
    harbour hotel house invoice island january journal journey junction kitchen language large library
    light market material medium message monday morning mountain museum network north november number
    office open orange order original package paper parking payment person platform please police power
    product quality quantity quick radio railway receipt record region rental river road room school
    season second section service shipping signal silver south square station street student sunday
    supply system table terminal ticket total tower traffic train travel university vehicle village
    voltage warning water weather window winter world yellow zone
"""
# Serial numbers leave out what no reader can tell apart out of context: 0 O o, 1 I l, C c, S s, X x, ...
UPPER = "ABCDEFGHJKLMNPQRSTUVWXYZ"
LOWER = "abdefghmnqrt"
DIGITS = "23456789"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the model, calibration shards and validation set.")
    parser.add_argument("--calibration", type=int, default=64, metavar="N", help="lines to calibrate with")
    parser.add_argument("--validation", type=int, default=400, metavar="N", help="lines to validate with")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    fonts = [packaged(package, f"files/{name}") for package, names in FONTS.items() for name in names]
    calibration, validation = map(np.random.default_rng, np.random.SeedSequence(args.seed).spawn(2))

    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=HERE) as temporary:
        staging = Path(temporary)
        shutil.copyfile(model, staging / "model.onnx")
        write_shards(staging / "shards", args.calibration, fonts, calibration)
        labels = write_shards(staging / "validation", args.validation, fonts, validation)
        (staging / "validation" / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
        for name in ("model.onnx", "shards", "validation"):
            replace(HERE / name, staging / name)
    print(f"ocr-rec: {args.calibration} calibration lines, {args.validation} validation lines in {HERE}")


def packaged(package: str, path: str) -> Path:
    """Where a file of an installed package lies. The package is not imported, so its own dependencies
    need not be there."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    print(f"error: no {path} of package {package}; pip install 'trtbuild[demo]'", file=sys.stderr)
    raise SystemExit(3)


def replace(target: Path, new: Path) -> None:
    """Rename `new` to `target`; a folder that stood there goes into the staging folder and with it."""
    if target.is_dir():
        target.rename(new.with_name(f"old-{new.name}"))
    os.replace(new, target)


def write_shards(folder: Path, count: int, fonts: list[Path], rng: np.random.Generator) -> dict[str, str]:
    """Render `count` lines into shards; returns what they say."""
    folder.mkdir()
    labels: dict[str, str] = {}
    for start in range(0, count, SHARD_SIZE):
        stem = f"{start // SHARD_SIZE:04d}"
        lines = [draw_line(fonts, rng) for _ in range(min(SHARD_SIZE, count - start))]
        np.savez(folder / f"{stem}.npz", x=np.stack([network_input(image) for image, _ in lines]))
        labels |= {f"{stem}:{row}": text for row, (_, text) in enumerate(lines)}
    print(f"ocr-rec: {folder.name}: {count} lines rendered")
    return labels


def network_input(image: Image.Image) -> np.ndarray:
    """What PP-OCR does to a line: height 48, BGR, [-1, 1], zeros to the right."""
    width = math.ceil(HEIGHT * image.width / image.height)
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    x = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    x[:, :, :width] = (pixels[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return x


def draw_line(fonts: list[Path], rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A photographed or scanned line of text that fits the network's width, and what it says."""
    while True:
        text = random_text(rng)
        image = draw_text(text, fonts[rng.integers(len(fonts))], rng)
        if math.ceil(HEIGHT * image.width / image.height) <= WIDTH:
            return image, text


def draw_text(text: str, font_file: Path, rng: np.random.Generator) -> Image.Image:
    size = int(rng.integers(28, 49))
    # The basic layout is in every Pillow; the other one depends on a system library.
    font = ImageFont.truetype(str(font_file), size, layout_engine=ImageFont.Layout.BASIC)
    paper, ink = random_colours(rng)

    left, top, right, bottom = font.getbbox(text)
    margin_x, above, below = (int(size * share) for share in rng.uniform(0.02, [0.12, 0.2, 0.2]))
    width, height = math.ceil(right - left) + 2 * margin_x, math.ceil(bottom - top) + above + below
    # A line of only low letters is still cut as high as its neighbours on a page.
    slack = max(0, int(1.1 * size) - height)
    image = Image.new("RGB", (width, height + slack), paper)
    ImageDraw.Draw(image).text((margin_x - left, above + slack // 2 - top), text, font=font, fill=ink)

    image = image.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.045) * size))
    noise = rng.normal(0, rng.uniform(0, 12), (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def random_colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink, tinted, between 40 and 220 grey levels apart; one line in four is light on dark."""
    contrast = rng.uniform(40, 220)
    dark = rng.uniform(0, 235 - contrast)
    tints = rng.uniform(-15, 15, (2, 3))
    greys = np.array([[dark], [dark + contrast]])
    ink, paper = np.clip(greys + tints, 0, 255).astype(int).tolist()
    if rng.random() < 0.25:
        paper, ink = ink, paper
    return tuple(paper), tuple(ink)


def random_text(rng: np.random.Generator) -> str:
    """A word, phrase, number, date, time, price, address or serial number of 4 to 22 ASCII characters."""
    words = WORDS.split()

    def number(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    def word() -> str:
        return words[number(0, len(words))]

    def serial(alphabet: str, length: int) -> str:
        return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))

    day, month, year = number(1, 29), number(1, 13), number(1950, 2040)
    texts = [
        word(),
        word().title(),
        word().upper(),
        f"{word().title()} {word()}",
        f"{word()}, {word()}",
        f"{word().title()} {number(1, 1000)}",
        f"{word()}-{word()}",
        f"{word().title()} #{number(10, 10000)}",
        f"({word()})",
        f"{word().upper()}!",
        f"{number(1000, 10**7):,}",
        f"{number(10, 10**5)}.{number(10, 100)}",
        f"{year}-{month:02d}-{day:02d}",
        f"{day:02d}/{month:02d}/{year}",
        f"{number(0, 24):02d}:{number(0, 60):02d}:{number(0, 60):02d}",
        f"${number(1, 10000):,}.{number(0, 100):02d}",
        f"EUR{number(1, 1000)}.{number(0, 100):02d}",
        f"{number(5, 96)}.{number(0, 10)}%",
        f"+{number(20, 99)}-{number(100, 1000)}-{number(10**5, 10**6)}",
        f"{word()}@{word()}.com",
        f"www.{word()}.org",
        f"{serial(UPPER, 3)}-{serial(DIGITS, 4)}",
        serial(UPPER + DIGITS, number(6, 13)),
        serial(UPPER + LOWER + DIGITS, number(4, 11)),
    ]
    fitting = [text for text in texts if 4 <= len(text) <= 22]
    return fitting[number(0, len(fitting))]


if __name__ == "__main__":
    main()
