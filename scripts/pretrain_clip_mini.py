"""Pretrain clip-mini, the small CLIP that ships with the course, on generic pictures and words.

    python scripts/pretrain_clip_mini.py --work build/pretrain            # draw, train, export
    python scripts/pretrain_clip_mini.py --work build/pretrain --export-only

Killed at any moment and started again, it goes on from its last checkpoint. Pictures are drawn by
the catalogue's engine from random specs: wider variation than the shop, everyday words only, no
house jargon and no families. The recipe, and why:

* Attributes supervise both towers beside the contrastive loss. One linear head, shared by the two
  projections, names the attributes of both products, so the modalities meet at the same class
  directions before the contrastive loss could have found them.
* The attributes supervise every patch as well (token labelling, Jiang et al. 2021, arXiv:2104.10858),
  through the same projection and head: one picture gives 64 answers instead of one, and a patch's
  embedding becomes that of a picture of its product alone, so texts can be compared with patches.
* Four texts in ten are short queries ("something stripy for tea"). A picture of the batch that fits one
  as well is no negative of it: the specs say so, and the contrastive loss leaves it out.
* Sine-cosine positions and mimetic attention (Trockman & Kolter 2023, arXiv:2305.09828) give the
  image tower the locality that a transformer otherwise needs millions of pictures to find.
* The hidden matrices are trained with Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon). From one
  checkpoint and in the same two minutes, one run of each, it took the attribute loss of unseen pictures
  down by about twice as much as AdamW did.
* The learning rate is warm, constant, then decays (so a finished run can be extended from the
  checkpoint before the decay). Small batches: seeing attributes asks for many steps, not many negatives.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from generic_pictures import (
    GRID,
    IGNORE,
    ITEM_CLASSES,
    ITEM_WIDTHS,
    PATCH,
    SCENE_WIDTHS,
    SIZE,
    Pictures,
    draw_shard,
    stated,
    to_pixels,
    write_atomically,
)
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from mmhelpers.shop import fits
from mmhelpers.shop import stock as shop
from mmhelpers.shop.spec import COLOURS, KINDS, MOTIFS, PATTERNS
from mmhelpers.shop.words import generic_caption, generic_query

SHARD = 4096
N_TEST = 1000
OPEN_QUERIES = 0.4  # share of texts that ask for something, of which not all is said
TO_IMAGE, TO_TEXT = "text_to_image", "image_to_text"


# ---------------------------------------------------------------- model


def build_tokenizer(folder: Path, seed: int) -> None:
    """Byte-level BPE in CLIP's own format, trained on generic captions and on plain English prose."""
    from pydoc_data.topics import topics  # some 700 kB of English that comes with Python

    from tokenizers import pre_tokenizers

    rng = random.Random(seed)
    captions = [generic_caption(shop.random_scene(rng), rng) for _ in range(20_000)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # every byte, so that any text goes in
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    untrained = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    tokenizer = untrained.train_new_from_iterator([*captions, *topics.values()], vocab_size=4096)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)


def sine_cosine(positions: torch.Tensor, width: int) -> torch.Tensor:
    """[n] positions to [n, width] (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angles = positions[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def mimetic(attention: nn.Module, heads: int, on_query: float = 0.7, on_value: float = 0.4) -> None:
    """Start attention near "look at what is like me", which with sine-cosine positions means nearby."""
    width = attention.q_proj.weight.shape[0]
    per_head = width // heads
    eye = torch.eye(width)
    for head in range(heads):
        product = on_query * (torch.randn(width, width) / math.sqrt(per_head) + eye)
        left, values, right = torch.linalg.svd(product)
        rows = slice(head * per_head, (head + 1) * per_head)
        root = values[:per_head].sqrt()
        attention.q_proj.weight.data[rows] = (left[:, :per_head] * root).T
        attention.k_proj.weight.data[rows] = (right[:per_head].T * root).T
    noise = torch.randn(width, width) / math.sqrt(width)
    left, values, right = torch.linalg.svd(on_value * (noise - eye))
    attention.v_proj.weight.data = (right.T * values.sqrt()).T.contiguous()
    attention.out_proj.weight.data = (left * values.sqrt()).contiguous()


def build_model(tokenizer) -> CLIPModel:
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shared = {"num_attention_heads": 3, "hidden_act": "gelu"}
    config = CLIPConfig(
        vision_config={
            **shared, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6,
            "image_size": SIZE, "patch_size": PATCH,
        },
        text_config={
            **shared, **special, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4,
            "vocab_size": len(tokenizer), "max_position_embeddings": 77,
        },
        projection_dim=256,
        **special,
    )  # fmt: skip
    model = CLIPModel(config)
    width = 192
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    grid = torch.cat([sine_cosine(axis.flatten() * 4, width // 2) for axis in (rows, columns)], dim=1)
    model.vision_model.embeddings.position_embedding.weight.data[1:] = 0.5 * grid
    text_positions = sine_cosine(torch.arange(77), width)
    model.text_model.embeddings.position_embedding.weight.data = 0.05 * text_positions
    for layer in model.vision_model.encoder.layers:
        mimetic(layer.self_attn, shared["num_attention_heads"])
    return model


class Heads(nn.Module):
    """Used in pretraining only: the attributes of a scene, or of one product, from the shared space."""

    def __init__(self, projection: int = 256) -> None:
        super().__init__()
        self.shared = nn.Linear(projection, sum(SCENE_WIDTHS))

    def product(self, embedding: torch.Tensor) -> torch.Tensor:
        """The attributes of the only (or first) product: the first columns of `shared`."""
        columns = sum(ITEM_WIDTHS)
        return F.linear(embedding, self.shared.weight[:columns], self.shared.bias[:columns])


def attribute_loss(logits: torch.Tensor, labels: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """Sum of cross-entropies; logits [n, sum(widths)], labels [n, len(widths)] with IGNORE where unknown.

    Kinds and patterns, the hardest to see, count twice.
    """
    weights = [*[2.0, 1.0, 2.0, 1.0, 1.0] * (len(widths) // len(ITEM_WIDTHS)), 1.0, 1.0]
    parts = zip(weights, logits.split(widths, dim=1), labels.T, strict=False)
    known = [
        weight * F.cross_entropy(part, label, ignore_index=IGNORE)
        for weight, part, label in parts
        if (label >= 0).any()
    ]
    return torch.stack(known).sum()


# ---------------------------------------------------------------- training


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: `torch.optim.Muon` with its `match_rms_adamw`, but for many small matrices.

    torch's works on one matrix at a time and in bf16, which on a CPU takes as long as the step itself; here
    matrices of one shape go through the Newton-Schulz iteration together, in fp32, several times faster.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                gradient = torch.stack([parameter.grad for parameter in parameters])
                state = self.state[parameters[0]]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].mul_(group["momentum"]).add_(gradient)
                update = gradient + group["momentum"] * state["momentum"]  # Nesterov
                if tall := shape[0] > shape[1]:
                    update = update.mT
                update = update / (update.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
                for _ in range(5):
                    gram = update @ update.mT
                    update = 3.4445 * update + (2.0315 * gram @ gram - 4.7750 * gram) @ update
                size = 0.2 * math.sqrt(max(shape)) * group["lr"]
                for parameter, change in zip(parameters, update.mT if tall else update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-size)


def optimizers(model: CLIPModel, heads: Heads, learning_rate: float) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices between layers, AdamW for embeddings, projections, heads, norms and biases."""
    named = [*model.named_parameters(), *heads.named_parameters()]
    hidden = [p for name, p in named if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return {
        "muon": Muon(hidden, learning_rate),
        "adamw": torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True),
    }


def schedule(progress: float, peak: float) -> tuple[float, int]:
    """Learning rate and batch size at a point of the run (0 to 1)."""
    warm = min(1.0, progress / 0.02)
    decay = 1.0 if progress < 0.75 else max(0.01, (1 - progress) / 0.25)
    return peak * warm * decay, 64 if progress < 0.9 else 128


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 3 pixels and vary the exposure slightly, so that a repeated picture is a new one."""
    shift = torch.randint(0, 7, (2,), generator=generator).tolist()
    padded = F.pad(pixels, (3, 3, 3, 3), mode="replicate")
    pixels = padded[:, :, shift[0] : shift[0] + SIZE, shift[1] : shift[1] + SIZE]
    gain = 1 + 0.06 * (torch.rand(len(pixels), 1, 1, 1, generator=generator) - 0.5)
    return pixels * gain


def losses(model: CLIPModel, heads: Heads, pictures: Pictures, rows: np.ndarray, tokenizer, rng, generator):
    """Contrastive loss, and attribute losses of towers and patches, of one batch."""
    scenes = [pictures.scenes[i] for i in rows]
    labels = torch.from_numpy(pictures.labels[rows])
    named, also_fits = labels.clone(), torch.zeros(len(rows), len(rows), dtype=torch.bool)
    captions = []
    for number, scene in enumerate(scenes):
        if rng.random() < OPEN_QUERIES:
            wanted = shop.open_wanted(scene, rng)
            captions.append(generic_query(wanted, rng))
            named[number] = torch.tensor(stated(wanted, scene))
            also_fits[number] = torch.tensor([fits(wanted, other) for other in scenes])
        else:
            captions.append(generic_caption(scene, rng))
    also_fits.fill_diagonal_(False)
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    seen = model.vision_model(pixel_values=augment(to_pixels(pictures.images[rows]), generator))
    image = model.visual_projection(seen.pooler_output)
    text = model.text_projection(model.text_model(**tokens).pooler_output)

    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * F.normalize(text, dim=1) @ F.normalize(image, dim=1).T
    logits = logits.masked_fill(also_fits, -torch.inf)  # no negative that is none
    same = torch.arange(len(rows))
    contrastive = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    attributes = attribute_loss(heads.shared(image), labels, SCENE_WIDTHS)
    attributes = attributes + attribute_loss(heads.shared(text), named, SCENE_WIDTHS)
    owner = torch.from_numpy(pictures.owners[rows].reshape(len(rows), -1)).long()
    patches = model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
    slots = labels[:, : 2 * len(ITEM_WIDTHS)].view(len(rows), 2, -1)
    owned = owner > 0
    patch_labels = slots[torch.arange(len(rows))[:, None].expand_as(owner)[owned], owner[owned] - 1]
    patches = model.visual_projection(patches[owned])
    dense = attribute_loss(heads.product(patches), patch_labels, ITEM_WIDTHS)
    return contrastive, attributes, dense


@torch.inference_mode()
def evaluate(model: CLIPModel, pictures: Pictures, tokenizer) -> dict[str, float]:
    """Text-to-image and image-to-text recall with one full caption a picture, all pictures as corpus."""
    model.eval()
    rng = random.Random(0)
    captions = [generic_caption(scene, rng) for scene in pictures.scenes]
    images, texts = [], []
    for start in range(0, len(pictures), 200):
        pixels = to_pixels(pictures.images[start : start + 200])
        tokens = tokenizer(captions[start : start + 200], padding=True, truncation=True, return_tensors="pt")
        images.append(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
        texts.append(model.text_projection(model.text_model(**tokens).pooler_output))
    scores = F.normalize(torch.cat(texts), dim=1) @ F.normalize(torch.cat(images), dim=1).T
    model.train()
    found: dict[str, float] = {}
    for direction, table in ((TO_IMAGE, scores), (TO_TEXT, scores.T)):
        rank = (table >= table.diagonal()[:, None]).sum(1) - 1  # a tie counts against us
        found |= {f"{direction}_recall@{k}": (rank < k).float().mean().item() for k in (1, 5, 10)}
    return found


@torch.inference_mode()
def sight(model: CLIPModel, heads: Heads, pictures: Pictures) -> dict[str, dict[str, float]]:
    """How often the image embedding names each attribute right, on pictures of one and of two products."""
    model.eval()
    batches = torch.arange(len(pictures)).split(200)
    seen = [
        model.vision_model(pixel_values=to_pixels(pictures.images[rows])).pooler_output for rows in batches
    ]
    parts = heads.shared(model.visual_projection(torch.cat(seen))).split(SCENE_WIDTHS, dim=1)
    labels = torch.from_numpy(pictures.labels)
    right = torch.stack([part.argmax(1) for part in parts], dim=1) == labels
    single, n = labels[:, len(ITEM_WIDTHS)] == IGNORE, len(ITEM_WIDTHS)
    found = {}
    for place, (name, _) in enumerate(ITEM_CLASSES):
        pair = right[~single][:, [place, n + place]]
        found[name] = {"one": right[single, place].float().mean().item(), "two": pair.float().mean().item()}
    return found


def train(args: argparse.Namespace, work: Path) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    test = Pictures([draw_shard(work, "test", args.seed + 1_000_000, 0, N_TEST, args.threads)])
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        build_tokenizer(folder, args.seed)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    model, heads = build_model(tokenizer), Heads()
    everything = [*model.parameters(), *heads.parameters()]
    parts = {"model": model, "heads": heads, **optimizers(model, heads, args.learning_rate)}
    steppers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
    seen = 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        seen = state["seen"]
        print(f"going on after {seen:,} pictures", flush=True)
    shards = math.ceil(args.pictures / SHARD)
    paths = [
        draw_shard(work, f"train-{i:03}", args.seed, i * SHARD, SHARD, args.threads) for i in range(shards)
    ]
    pictures = Pictures(paths, exclude=set(test.specs.tolist()))
    print(f"{len(pictures):,} pictures drawn; training on {args.seen:,} views", flush=True)
    begin = last_save = time.time()
    first = seen
    while seen < args.seen:
        lr, batch = schedule(seen / args.seen, args.learning_rate)
        for group in [group for stepper in steppers for group in stepper.param_groups]:
            group["lr"] = lr
        # Seeded by position, so that a resumed run draws the batches of an uninterrupted one.
        rng, generator = random.Random(args.seed + seen), torch.Generator().manual_seed(args.seed + seen)
        order = np.random.default_rng([args.seed, seen // len(pictures)]).permutation(len(pictures))
        rows = order[seen % len(pictures) :][:batch]
        contrastive, attributes, dense = losses(model, heads, pictures, rows, tokenizer, rng, generator)
        (contrastive + 0.2 * attributes + 0.2 * dense).backward()
        nn.utils.clip_grad_norm_(everything, 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        report = (seen + len(rows)) // 12_800 > seen // 12_800
        seen += len(rows)
        if report:
            rate = (seen - first) / (time.time() - begin)
            line = f"{seen:>9,} lr {lr:.1e} contrastive {contrastive:.3f} "
            print(f"{line}attributes {attributes:.2f} patches {dense:.2f} {rate:.0f}/s", flush=True)
        if time.time() - last_save > 240 or seen >= args.seen:
            state = {name: part.state_dict() for name, part in parts.items()} | {"seen": seen}
            write_atomically(checkpoint, lambda handle, state=state: torch.save(state, handle))
            recall = evaluate(model, test, tokenizer)
            print(json.dumps({name: round(value, 3) for name, value in recall.items()}), flush=True)
            last_save = time.time()


def export(args: argparse.Namespace, work: Path, target: Path) -> None:
    """Write the checkpoint in the standard Hub layout, fp16 safetensors, and its numbers."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    model = build_model(tokenizer)
    model.load_state_dict(state["model"])
    heads = Heads()
    heads.load_state_dict(state["heads"])
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size)
    test = Pictures([work / "test.npz"])
    model.half().save_pretrained(target)
    CLIPProcessor(images, tokenizer).save_pretrained(target)
    numbers = evaluate(model.float(), test, tokenizer)  # rounded to fp16: what ships is what is measured
    seen = sight(model, heads, test)
    drawn = math.ceil(args.pictures / SHARD) * SHARD
    facts = {"parameters": model.num_parameters(), "views": state["seen"], "pictures": drawn}
    facts["seed"] = args.seed
    report = {**facts, "test": numbers, "attributes": seen}
    (target / "pretraining.json").write_text(json.dumps(report, indent=2) + "\n")
    sizes = {"vocabulary": len(tokenizer), "n_test": len(test), "chance": 1 / len(test)}
    sizes |= {"kinds": len(KINDS), "colours": len(COLOURS), "patterns": len(PATTERNS)}
    ways = [(way, k) for way in (TO_IMAGE, TO_TEXT) for k in (1, 5, 10)]
    recalls = {f"{way[0]}{k}": numbers[f"{way}_recall@{k}"] for way, k in ways}
    names = {"kind": len(KINDS), "colour": len(COLOURS), "pattern": 1 + len(PATTERNS),
             "colour2": 1 + len(COLOURS), "motif": 1 + len(MOTIFS)}  # fmt: skip
    rows = [f"| {name} | {names[name]} | {way['one']:.2f} | {way['two']:.2f} |" for name, way in seen.items()]
    recalls["attributes"] = "\n".join(rows).replace("colour2", "second colour")
    card = Path(__file__).with_name("clip_mini_card.md").read_text(encoding="utf-8")
    (target / "README.md").write_text(card.format(**facts, **sizes, **recalls), encoding="utf-8")
    print(json.dumps(report, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="pictures and checkpoint")
    target = Path("mmhelpers/models/clip_mini")
    parser.add_argument("--target", type=Path, default=target, help="where to export")
    parser.add_argument("--pictures", type=int, default=196_608, help="different pictures to draw")
    parser.add_argument("--seen", type=int, default=500_000, help="pictures seen in training")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--export-only", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.export_only:
        train(args, args.work)
    export(args, args.work, args.target)


if __name__ == "__main__":
    main()
