"""Draw the images in examples/, one of each class of the demo: JPEG and PNG in turn."""

import argparse
from pathlib import Path

from vit_export.samples import draw


def write_examples(folder: Path) -> list[Path]:
    """Write one image of each class, such as star-01.jpg; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for drawn, index in draw.samples(len(draw.LABELS), first=draw.EXAMPLES):
        path = folder / f"{draw.LABELS[index]}-01.{'png' if index % 4 == 3 else 'jpg'}"
        drawn.save(path, **({"quality": 90} if path.suffix == ".jpg" else {"optimize": True}))
        paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(*write_examples(parser.parse_args().folder), sep="\n")
