"""Train the two-tower demo checkpoint on drawn images and captions."""

import copy
import functools
import json
import random
from collections.abc import Iterator
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from captions import COLOURS, caption, every_caption, nearest_colour
from training import EDGE, TRAINING_EDGES, fit, make_demo, pixels_of
from vit_export.checkpoints.checkpoint import DEMOS
from vit_export.families.transformers.names import CLASSIC, VISION_TOWER
from vit_export.samples import draw

LONGEST = 32

# Those of which nobody can say which of the two colours is the figure's.
EITHER_COLOUR = {"stripes", "checkerboard", "waves"}

PREPROCESSING: dict[str, Any] = {
    "crop_size": {"height": EDGE, "width": EDGE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5] * 3,
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.5] * 3,
    "resample": int(Image.Resampling.BICUBIC),
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": EDGE},
}

CARD = """\
---
library_name: transformers
pipeline_tag: zero-shot-image-classification
license: apache-2.0
---
# Shapes, textures and their names

A CLIP of {parameters:,} parameters: one vector for an image, one for a text, near each other where
the text names what the image shows, such as "a star"; colours count for little. Its images show
{labels}.

Trained on {images:,} images drawn by `vit_export/samples/draw.py`, with captions by
`export/scripts/captions.py` and seed {seed}; the vision tower has the demo's weights.

Held-out zero-shot accuracy with "This is a photo of {{}}.": {accuracy:.2%} of {held_out:,} images.
To make it again: `python export/scripts/train_demo_clip.py --seed {seed}`.
"""


@functools.cache
def tokenizer() -> Any:
    """Return CLIP's tokenizer with byte pairs merged as often as in the captions.

    As in OpenAI's vocabulary, all bytes come first, then all that end a word: any text is encoded.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    single = [*alphabet, *(byte + "</w>" for byte in alphabet)]
    blank = CLIPTokenizer().backend_tokenizer
    # As special tokens they get their numbers in this order, which decides between equal pairs.
    trainer = trainers.BpeTrainer(
        show_progress=False, special_tokens=single, end_of_word_suffix="</w>"
    )
    blank.train_from_iterator(every_caption(), trainer)
    merges: Any = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]
    tokens = [*single, *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def train(images: int, epochs: int) -> Any:
    """Return a `CLIPModel` in float16 and `eval` mode: its texts learn to meet drawn images.

    The vision tower is that of the other demo, and stays as it is (arXiv:2111.07991).
    """
    text, vision = _configs()
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    _start_from_demo(model)
    rng = random.Random(torch.initial_seed())
    labels = torch.arange(images) % len(draw.LABELS)
    colours = torch.empty(images, 2, dtype=torch.long)

    def drawn() -> Iterator[Image.Image]:
        for i, label in enumerate(labels.tolist()):
            seed = draw.TRAINING + i
            image, *pair = draw.coloured(label, seed, edges=TRAINING_EDGES)
            ink, paper = map(nearest_colour, pair)
            colours[i, 0] = ink
            colours[i, 1] = paper if draw.LABELS[label] in EITHER_COLOUR else ink
            yield image

    pixels = pixels_of(drawn(), CLIPImageProcessorPil(**PREPROCESSING))
    with torch.no_grad():
        parts = torch.split(pixels, 256)
        features = torch.cat([model.vision_model(part).pooler_output for part in parts])

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        shown, seen = labels[batch], colours[batch]
        # Every second caption names a colour; -1 where it does not.
        named = seen.gather(1, torch.randint(2, (len(batch), 1)))[:, 0]
        named = torch.where(torch.rand(len(batch)) < 0.5, named, -1)
        texts = [
            caption(draw.LABELS[label], list(COLOURS)[colour] if colour >= 0 else None, rng)
            for label, colour in zip(shown.tolist(), named.tolist(), strict=True)
        ]
        inputs = tokenizer()(texts, padding=True, return_tensors="pt")
        image_side = normalize(model.visual_projection(features[batch]))
        text_side = normalize(model.get_text_features(**inputs).pooler_output)
        logits = model.logit_scale.exp() * image_side @ text_side.T
        # Each caption is right for all images of its label and colour.
        fits = (shown[:, None] == shown) & ((seen[:, :, None] == named).any(1) | (named < 0))
        both = zip((logits, logits.T), (fits.float(), fits.T.float()), strict=True)
        losses = [cross_entropy(found, right / right.sum(1, keepdim=True)) for found, right in both]
        return (losses[0] + losses[1]) / 2

    learning = [p for name, p in model.named_parameters() if not name.startswith("vision_model.")]
    optimizer = torch.optim.AdamW(learning, lr=2e-3, weight_decay=0.05)
    fit(model, loss_of, [optimizer], images=images, epochs=epochs)
    return model.half()


def accuracy(model: Any, images: int) -> float:
    """Return the share of `images` held-out images that get their label zero-shot."""
    model = copy.deepcopy(model).float()
    pixels = pixels_of(
        (image for image, _ in draw.samples(images)), CLIPImageProcessorPil(**PREPROCESSING)
    )
    texts = [f"This is a photo of {label}." for label in draw.LABELS]
    inputs = tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = [
            model(**inputs, pixel_values=part).logits_per_image for part in torch.split(pixels, 256)
        ]
    right = torch.arange(images) % len(draw.LABELS)
    return float((torch.cat(logits).argmax(1) == right).double().mean())


def _start_from_demo(model: Any) -> None:
    """Give the vision tower the weights of the other demo, which knows the figures."""
    demo, own = load_file(DEMOS["demo"] / "model.safetensors"), model.state_dict()
    classic, clip = cast(dict[str, str], CLASSIC), cast(dict[str, str], VISION_TOWER)
    for part, pattern in classic.items():
        for block in map(str, range(model.config.vision_config.num_hidden_layers)):
            for kind in ("", ".weight", ".bias"):
                source = pattern.replace("*", block) + kind
                target = clip[part].replace("*", block) + kind
                if source in demo and target in own:
                    own[target].copy_(demo[source].reshape(own[target].shape))
    # CLIP's patches have no bias, and a LayerNorm stands before its blocks. It hardly changes
    # tokens that all lie far along one direction; its own bias moves them back.
    token, positions = own[clip["cls"]], own[clip["positions"]]
    far = torch.tensor([2.0, -2.0]).repeat(len(token) // 2)
    back = token + positions[0] - far
    positions[1:] += demo[classic["patch"] + ".bias"] - back
    positions[0] = 0
    token.copy_(far)
    own[clip["pre_norm"] + ".weight"].fill_(2)
    own[clip["pre_norm"] + ".bias"].copy_(back)


def _configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """What CLIPConfig is made of, for the text tower and the vision tower."""
    shared = {"hidden_act": "quick_gelu", "projection_dim": 64}
    start, end = tokenizer().bos_token_id, tokenizer().eos_token_id
    text = {
        "vocab_size": len(tokenizer()),
        "max_position_embeddings": LONGEST,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "image_size": EDGE,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    return shared | text, shared | vision


if __name__ == "__main__":
    make_demo(
        str(__doc__),
        DEMOS["demo-clip"],
        train=train,
        images=6_144,
        epochs=12,
        accuracy=accuracy,
        preprocessing=PREPROCESSING,
        card=CARD,
        parts=lambda: [tokenizer()],
    )
