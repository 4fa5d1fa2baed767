"""Pretrain clip-mini, the small CLIP that ships with the course, on generic pictures and words.

    python scripts/pretrain_clip_mini.py            # draws, trains, exports

Killed at any moment and started again, it goes on from its last checkpoint. The shop's engine draws pictures
from random specs: wider variation than the shop, everyday words only, no house jargon and no families.
The recipe, and why:

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
import functools
import json
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import generic_pictures as generic
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from mmhelpers.course.profiles import CLIP_MINI
from mmhelpers.shop import fits
from mmhelpers.shop import stock as shop
from mmhelpers.shop.spec import ALLOWED, COLOURS, KINDS, PATTERNS
from mmhelpers.shop.words import generic_caption, generic_query

SHARD, N_TEST = 4096, 1000  # pictures
WIDTH, HEADS, PROJECTION = 192, 3, 256
PEAK = 1e-3  # learning rate
OPEN_QUERIES = 0.4  # share of texts that ask for something, of which not all is said


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


def mimetic(attention: nn.Module) -> None:
    """Start attention near "look at what is like me", which with sine-cosine positions means nearby."""
    per_head, eye = WIDTH // HEADS, torch.eye(WIDTH)
    for head in range(HEADS):
        product = 0.7 * (torch.randn(WIDTH, WIDTH) / math.sqrt(per_head) + eye)
        left, values, right = torch.linalg.svd(product)
        rows = slice(head * per_head, (head + 1) * per_head)
        root = values[:per_head].sqrt()
        attention.q_proj.weight.data[rows] = (left[:, :per_head] * root).T
        attention.k_proj.weight.data[rows] = (right[:per_head].T * root).T
    noise = torch.randn(WIDTH, WIDTH) / math.sqrt(WIDTH)
    left, values, right = torch.linalg.svd(0.4 * (noise - eye))
    attention.v_proj.weight.data = (right.T * values.sqrt()).T.contiguous()
    attention.out_proj.weight.data = (left * values.sqrt()).contiguous()


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shared = {
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": 768,
    }
    vision = {"num_hidden_layers": 6, "image_size": generic.SIZE, "patch_size": generic.PATCH}
    text = {"num_hidden_layers": 4, "vocab_size": len(tokenizer), "max_position_embeddings": 77, **special}
    towers = {"vision_config": shared | vision, "text_config": shared | text}
    model = CLIPModel(CLIPConfig(**towers, projection_dim=PROJECTION, **special))
    rows, columns = torch.meshgrid(torch.arange(generic.GRID), torch.arange(generic.GRID), indexing="ij")
    grid = torch.cat([sine_cosine(axis.flatten() * 4, WIDTH // 2) for axis in (rows, columns)], dim=1)
    model.vision_model.embeddings.position_embedding.weight.data[1:] = 0.5 * grid
    model.text_model.embeddings.position_embedding.weight.data = 0.05 * sine_cosine(torch.arange(77), WIDTH)
    for layer in model.vision_model.encoder.layers:
        mimetic(layer.self_attn)
    return model


def build_head() -> nn.Linear:
    """Used in pretraining only: the attributes of a scene from the shared space."""
    return nn.Linear(PROJECTION, sum(generic.SCENE_WIDTHS))


def attribute_loss(logits: torch.Tensor, labels: torch.Tensor, widths: list[int]) -> torch.Tensor:
    """Sum of cross-entropies; logits [n, sum(widths)], labels [n, len(widths)] with IGNORE where unknown.

    Kinds and patterns, the hardest to see, count twice.
    """
    weights = [*[2.0, 1.0, 2.0, 1.0, 1.0] * (len(widths) // len(generic.ITEM_WIDTHS)), 1.0, 1.0]
    parts = zip(weights, logits.split(widths, dim=1), labels.T, strict=False)
    known = [
        weight * F.cross_entropy(part, label, ignore_index=generic.IGNORE)
        for weight, part, label in parts
        if (label >= 0).any()
    ]
    return torch.stack(known).sum()


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


def optimizers(model: CLIPModel, head: nn.Linear) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices between layers, AdamW for embeddings, projections, head, norms and biases."""
    named = [*model.named_parameters(), *head.named_parameters()]
    hidden = [p for name, p in named if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named if ".layers." not in name or p.ndim != 2]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return {
        "muon": Muon(hidden, PEAK),
        "adamw": torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.98), fused=True),
    }


def schedule(progress: float) -> tuple[float, int]:
    """Learning rate and batch size at a point of the run (0 to 1)."""
    warm = min(1.0, progress / 0.02)
    decay = 1.0 if progress < 0.75 else max(0.01, (1 - progress) / 0.25)
    return PEAK * warm * decay, 64 if progress < 0.9 else 128


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 3 pixels and vary the exposure slightly, so that a repeated picture is a new one."""
    shift = torch.randint(0, 7, (2,), generator=generator).tolist()
    padded = F.pad(pixels, (3, 3, 3, 3), mode="replicate")
    pixels = padded[:, :, shift[0] : shift[0] + generic.SIZE, shift[1] : shift[1] + generic.SIZE]
    gain = 1 + 0.06 * (torch.rand(len(pixels), 1, 1, 1, generator=generator) - 0.5)
    return pixels * gain


def losses(model: CLIPModel, head: nn.Linear, pictures: generic.Pictures, rows, tokenizer, rng, generator):
    """Contrastive loss, and attribute losses of towers and patches, of one batch."""
    scenes = [pictures.scenes[i] for i in rows]
    labels = torch.from_numpy(pictures.labels[rows])
    named, also_fits = labels.clone(), torch.zeros(len(rows), len(rows), dtype=torch.bool)
    captions = []
    for number, scene in enumerate(scenes):
        if rng.random() < OPEN_QUERIES:
            wanted = shop.open_wanted(scene, rng)
            captions.append(generic_query(wanted, rng))
            named[number] = torch.tensor(generic.stated(wanted, scene))
            also_fits[number] = torch.tensor([fits(wanted, other) for other in scenes])
        else:
            captions.append(generic_caption(scene, rng))
    also_fits.fill_diagonal_(False)
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    seen = model.vision_model(pixel_values=augment(pictures.pixels(rows), generator))
    image = model.visual_projection(seen.pooler_output)
    text = model.text_projection(model.text_model(**tokens).pooler_output)

    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * F.normalize(text, dim=1) @ F.normalize(image, dim=1).T
    logits = logits.masked_fill(also_fits, -torch.inf)  # no negative that is none
    same = torch.arange(len(rows))
    contrastive = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2

    attributes = attribute_loss(head(image), labels, generic.SCENE_WIDTHS)
    attributes = attributes + attribute_loss(head(text), named, generic.SCENE_WIDTHS)
    owner = torch.from_numpy(pictures.owners[rows].reshape(len(rows), -1)).long()
    patches = model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
    slots = labels[:, : 2 * len(generic.ITEM_WIDTHS)].view(len(rows), 2, -1)
    owned = owner > 0
    patch_labels = slots[torch.arange(len(rows))[:, None].expand_as(owner)[owned], owner[owned] - 1]
    patches = model.visual_projection(patches[owned])
    n = sum(generic.ITEM_WIDTHS)  # the columns of the only, or first, product
    guessed = F.linear(patches, head.weight[:n], head.bias[:n])
    return contrastive, attributes, attribute_loss(guessed, patch_labels, generic.ITEM_WIDTHS)


@torch.inference_mode()
def image_embeddings(model: CLIPModel, pictures: generic.Pictures) -> torch.Tensor:
    parts = (pictures.pixels(slice(start, start + 200)) for start in range(0, len(pictures), 200))
    pooled = [model.vision_model(pixel_values=pixels).pooler_output for pixels in parts]
    return model.visual_projection(torch.cat(pooled))


@torch.inference_mode()
def evaluate(model: CLIPModel, pictures: generic.Pictures, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Text-to-image and image-to-text recall with one full caption a picture, all pictures as corpus."""
    rng = random.Random(0)
    captions = [generic_caption(scene, rng) for scene in pictures.scenes]
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    texts = model.text_projection(model.text_model(**tokens).pooler_output)
    scores = F.normalize(texts, dim=1) @ F.normalize(image_embeddings(model, pictures), dim=1).T
    found: dict[str, float] = {}
    for direction, table in (("text_to_image", scores), ("image_to_text", scores.T)):
        rank = (table >= table.diagonal()[:, None]).sum(1) - 1  # a tie counts against us
        found |= {f"{direction}_recall@{k}": (rank < k).float().mean().item() for k in (1, 5, 10)}
    return found


@torch.inference_mode()
def sight(model: CLIPModel, head: nn.Linear, pictures: generic.Pictures) -> dict[str, dict[str, float]]:
    """How often the image embedding names each attribute right, on pictures of one and of two products."""
    parts = head(image_embeddings(model, pictures)).split(generic.SCENE_WIDTHS, dim=1)
    labels, n = torch.from_numpy(pictures.labels), len(generic.ITEM_WIDTHS)
    right = (torch.stack([part.argmax(1) for part in parts], dim=1) == labels).float()
    single = labels[:, n] == generic.IGNORE
    return {
        name: {"one": right[single, i].mean().item(), "two": right[~single][:, [i, n + i]].mean().item()}
        for i, name in enumerate(ALLOWED)
    }


def train(args: argparse.Namespace, test: generic.Pictures, tokenizer: CLIPTokenizer) -> None:
    """Train from the last checkpoint, or from random weights, until `args.seen` pictures were seen."""
    model, head, seen, checkpoint = build_model(tokenizer), build_head(), 0, args.work / "checkpoint.pt"
    parts = {"model": model, "head": head, **optimizers(model, head)}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        seen = state["seen"]
        print(f"going on after {seen:,} pictures", flush=True)
    if seen >= args.seen:
        return
    shards = range(math.ceil(args.pictures / SHARD))
    jobs = [(args.work, f"train-{i:03}", args.seed, i * SHARD, SHARD, args.threads) for i in shards]
    paths = [generic.draw_shard(*job) for job in jobs]
    pictures = generic.Pictures(paths, exclude=set(test.specs.tolist()))
    print(f"{len(pictures):,} pictures drawn; training on {args.seen:,} views", flush=True)
    last_save = time.time()
    while seen < args.seen:
        # Seeded by position, so that a resumed run draws the batches of an uninterrupted one.
        rng, generator = random.Random(args.seed + seen), torch.Generator().manual_seed(args.seed + seen)
        order = np.random.default_rng([args.seed, seen // len(pictures)]).permutation(len(pictures))
        lr, batch = schedule(seen / args.seen)
        rows = order[seen % len(pictures) :][:batch]
        found = losses(model, head, pictures, rows, tokenizer, rng, generator)
        step(parts, found, lr)
        seen += len(rows)
        if time.time() - last_save > 240 or seen >= args.seen:
            state = {name: part.state_dict() for name, part in parts.items()} | {"seen": seen}
            generic.write_whole(checkpoint, functools.partial(torch.save, state))
            said = [f"{loss.item():.3f}" for loss in found], evaluate(model, test, tokenizer)
            print(f"{seen:,} seen, learning rate {lr:.1e}, losses and recall:", *said, flush=True)
            last_save = time.time()


def step(parts: dict[str, Any], found: Sequence[torch.Tensor], lr: float) -> None:
    """One step of both optimizers down the contrastive loss and those of the attributes (towers, patches)."""
    contrastive, attributes, dense = found
    (contrastive + 0.2 * attributes + 0.2 * dense).backward()
    nn.utils.clip_grad_norm_([*parts["model"].parameters(), *parts["head"].parameters()], 1.0)
    for stepper in (parts["muon"], parts["adamw"]):
        for group in stepper.param_groups:
            group["lr"] = lr
        stepper.step()
        stepper.zero_grad()


def export(args: argparse.Namespace, test: generic.Pictures) -> None:
    """Write the checkpoint in the standard Hub layout, fp16 safetensors, and its numbers."""
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")  # anew: use has left padding in it
    state = torch.load(args.work / "checkpoint.pt", weights_only=True)
    model, head = build_model(tokenizer), build_head()
    model.load_state_dict(state["model"])
    head.load_state_dict(state["head"])
    size = {"height": generic.SIZE, "width": generic.SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": generic.SIZE}, crop_size=size)
    model.half().save_pretrained(args.target)
    CLIPProcessor(images, tokenizer).save_pretrained(args.target)
    numbers = evaluate(model.float(), test, tokenizer)  # rounded to fp16: what ships is what is measured
    seen = sight(model, head, test)
    facts = {"parameters": model.num_parameters(), "views": state["seen"],
             "pictures": math.ceil(args.pictures / SHARD) * SHARD, "seed": args.seed}  # fmt: skip
    report = json.dumps({**facts, "test": numbers, "attributes": seen}, indent=2)
    (args.target / "pretraining.json").write_text(report + "\n")
    sizes = {"vocabulary": len(tokenizer), "n_test": len(test), "chance": 1 / len(test),
             "kinds": len(KINDS), "colours": len(COLOURS), "patterns": len(PATTERNS)}  # fmt: skip
    recalls = {name[0] + name.partition("@")[2]: value for name, value in numbers.items()}  # t1, t5 ... i10
    rows = [
        f"| {name} | {width} | {seen[name]['one']:.2f} | {seen[name]['two']:.2f} |"
        for name, width in zip(ALLOWED, generic.ITEM_WIDTHS, strict=True)
    ]
    recalls["attributes"] = "\n".join(rows).replace("colour2", "second colour")
    card = Path(__file__).with_name("clip_mini_card.md").read_text(encoding="utf-8")
    (args.target / "README.md").write_text(card.format(**facts, **sizes, **recalls), encoding="utf-8")
    print(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="pictures and checkpoint")
    parser.add_argument("--target", type=Path, default=CLIP_MINI, help="where to export")
    parser.add_argument("--pictures", type=int, default=196_608, help="different pictures to draw")
    parser.add_argument("--seen", type=int, default=500_000, help="pictures seen in training")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    drawn = generic.draw_shard(args.work, "test", args.seed + 1_000_000, 0, N_TEST, args.threads)
    test = generic.Pictures([drawn])
    if not (args.work / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer(args.work / "tokenizer", args.seed)
    train(args, test, CLIPTokenizer.from_pretrained(args.work / "tokenizer"))
    export(args, test)


if __name__ == "__main__":
    main()
