"""Pretrain clip-mini, the small CLIP that ships with the course, on generic pictures and alt text.

    python scripts/pretrain_clip_mini.py            # draws, trains, exports

Killed at any moment and started again, it goes on from its last checkpoint. The shop's engine draws pictures
of random products: wider variation than the shop, everyday words only, none of the shop's own shades,
patterns, kinds or words, and no families. Captions are the only supervision, and they are what alt text is:
of one product some attributes, of two a list of what is there, without saying which has what.
The recipe, and why:

* CLIP's contrastive loss, with a learned scale.
* Beside it a linear head over the image embedding guesses which tokens the caption holds (SuperClass, Huang et
  al. 2024, arXiv:2411.03313): it needs no negatives, so a small batch teaches as well as a large one.
* Sine-cosine positions and mimetic attention (Trockman & Kolter 2023, arXiv:2305.09828) give the
  image tower the locality that a transformer otherwise needs millions of pictures to find.
* The hidden matrices are trained with Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), the rest
  with AdamW.
* In the second part of the run a batch holds products together with relatives that differ in one attribute: what
  tells them apart is in the captions, and has to be seen.
* The learning rate is warm, constant, then decays.
* bfloat16 where the hardware has it. On a CPU, attention is written out: there the backward pass of torch's
  fused attention takes as long as all the rest of a step in bfloat16.

The defaults are what the shipped weights were made with, on one GPU: minutes there, most of a day on two cores.
`--batch 128 --pictures 131072 --seen 200000` takes under an hour on two cores, and gives a weaker model.
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
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import generic_pictures as generic
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from mmhelpers.course.profiles import CLIP_MINI, bfloat16_cpu
from mmhelpers.shop.draw import draw
from mmhelpers.shop.spec import GENERIC_COLOURS, GENERIC_KINDS, GENERIC_PATTERNS, Scene
from mmhelpers.shop.words import generic_caption

DEVICE, ATTENTION = ("cuda", "sdpa") if torch.cuda.is_available() else ("cpu", "eager")
SHARD, N_TEST, GROUP = 4096, 1000, 4  # pictures; of one product and its relatives, in the second part of the run
WIDTH, HEADS, PROJECTION = 192, 3, 256
CAPTIONS, LENGTH = 8, 48  # different texts of a picture, written beforehand; tokens of the longest
PEAK = 1e-3  # learning rate
SWITCH = 0.46  # of the run shows products at random; then batches hold relatives, and only details tell them apart


def build_tokenizer(folder: Path, seed: int) -> None:
    """Byte-level BPE in CLIP's own format, trained on generic captions and on plain English prose."""
    from pydoc_data.topics import topics  # some 700 kB of English that comes with Python

    from tokenizers import pre_tokenizers

    rng = random.Random(seed)
    captions = [generic.alt_text(generic.random_scene(rng), rng) for _ in range(20_000)]
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
    config = CLIPConfig(**towers, projection_dim=PROJECTION, **special, attn_implementation=ATTENTION)
    model, side = CLIPModel(config), torch.arange(generic.SIZE // generic.PATCH)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    grid = torch.cat([sine_cosine(axis.flatten() * 4, WIDTH // 2) for axis in (rows, columns)], dim=1)
    model.vision_model.embeddings.position_embedding.weight.data[1:] = 0.5 * grid
    model.text_model.embeddings.position_embedding.weight.data = 0.05 * sine_cosine(torch.arange(77), WIDTH)
    for layer in model.vision_model.encoder.layers:
        mimetic(layer.self_attn)
    return model


def build_head(tokenizer: CLIPTokenizer) -> nn.Linear:
    """Used in pretraining only: how likely each token of the vocabulary is in the caption of an image embedding."""
    return nn.Linear(PROJECTION, len(tokenizer))


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


def schedule(progress: float) -> float:
    """The learning rate at a point of the run (0 to 1)."""
    warm = min(1.0, progress / 0.02)
    decay = 1.0 if progress < 0.7 else max(0.01, (1 - progress) / 0.3)
    return PEAK * warm * decay


def augment(pixels: torch.Tensor, generator: torch.Generator, rng: random.Random) -> torch.Tensor:
    """Shift by up to 4 pixels, mirror half, vary the exposure: a repeated picture is a new one."""
    down, right = rng.randrange(9), rng.randrange(9)
    padded = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    pixels = padded[:, :, down : down + generic.SIZE, right : right + generic.SIZE]
    chance = torch.rand(2, len(pixels), 1, 1, 1, generator=generator, device=pixels.device)
    pixels = torch.where(chance[0] < 0.5, pixels.flip(3), pixels)
    return pixels * (1 + 0.06 * (chance[1] - 0.5))


def token_weights(tokenizer: CLIPTokenizer, seed: int) -> torch.Tensor:
    """[vocabulary] inverse document frequency of each token in captions; 0 for the marks of start and end."""
    rng, seen = random.Random(f"{seed} weights"), torch.zeros(len(tokenizer))
    captions = [generic.alt_text(generic.random_scene(rng), rng) for _ in range(5000)]
    for ids in tokenizer(captions, truncation=True)["input_ids"]:
        seen[list(set(ids))] += 1
    weights = torch.log((1 + len(captions)) / (1 + seen))
    weights[[tokenizer.bos_token_id, tokenizer.eos_token_id]] = 0
    return weights.to(DEVICE)


def losses(model: CLIPModel, head: nn.Linear, pixels: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor):
    """Contrastive loss, and the loss of guessing the caption's tokens from the picture, of one batch.

    `tokens` [n, LENGTH] need no mask: a text is read from left to right up to its first end token.
    """
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda" or bfloat16_cpu()):
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).float()
        text = model.text_projection(model.text_model(input_ids=tokens).pooler_output).float()
    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = scale * F.normalize(text, dim=1) @ F.normalize(image, dim=1).T
    same = torch.arange(len(logits), device=DEVICE)
    contrastive = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
    there = torch.zeros(len(logits), len(weights), device=DEVICE).scatter_(1, tokens, 1.0) * weights
    share = there / there.sum(1, keepdim=True).clamp(min=1e-6)
    return contrastive, -(share * head(image).log_softmax(dim=1)).sum(1).mean()


@torch.inference_mode()
def embed(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str], pixels: torch.Tensor):
    """Unit vectors [n, PROJECTION] of texts and of pictures."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(DEVICE)
    text = model.text_projection(model.text_model(**tokens).pooler_output)
    seen = torch.cat([model.vision_model(pixel_values=part).pooler_output for part in pixels.to(DEVICE).split(200)])
    return F.normalize(text, dim=1), F.normalize(model.visual_projection(seen), dim=1)


def evaluate(model: CLIPModel, pictures: generic.Pictures, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Recall with one full caption a picture, all pictures as corpus, in both directions."""
    rng = random.Random(0)
    captions = [generic_caption(scene, rng) for scene in pictures.scenes]
    texts, images = embed(model, tokenizer, captions, pictures.pixels(range(len(pictures))))
    found: dict[str, float] = {}
    for direction, table in (("text_to_image", texts @ images.T), ("image_to_text", images @ texts.T)):
        rank = (table >= table.diagonal()[:, None]).sum(1) - 1  # a tie counts against us
        found |= {f"{direction}_recall@{k}": (rank < k).float().mean().item() for k in (1, 5, 10)}
    return found


def twins(model: CLIPModel, tokenizer: CLIPTokenizer, seed: int, n: int = 500) -> float:
    """How often a full caption of two products lies nearer to its picture than to one with colours swapped."""
    rng, scenes = random.Random(f"{seed} twins"), []
    while len(scenes) < 2 * n:
        scene = generic.random_scene(rng, 2)
        a, b = scene.items
        if a.kind != b.kind and not {a.colour, a.colour2} & {b.colour, b.colour2}:
            swapped = (replace(a, colour=b.colour), replace(b, colour=a.colour))
            scenes += [scene, Scene(swapped, scene.backdrop, scene.relation)]
    images = [np.asarray(draw(scene, generic.SIZE, seed=i // 2)) for i, scene in enumerate(scenes)]
    pixels = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - generic.MEAN) / generic.STD
    texts, images = embed(model, tokenizer, [generic_caption(scene, rng) for scene in scenes[::2]], pixels)
    return ((texts * images[::2]).sum(1) > (texts * images[1::2]).sum(1)).float().mean().item()


def write(job: tuple[list[Scene], Path, int, float]) -> np.ndarray:
    """Tokens of CAPTIONS alt texts for each of some scenes, int16 [scenes, CAPTIONS, LENGTH]."""
    scenes, folder, seed, thorough = job
    tokenizer, rng = CLIPTokenizer.from_pretrained(folder), random.Random(seed)
    texts = [generic.alt_text(scene, rng, thorough) for scene in scenes for _ in range(CAPTIONS)]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")["input_ids"]
    return ids.astype(np.int16).reshape(len(scenes), CAPTIONS, LENGTH)


def drawn(args: argparse.Namespace, name: str, seed: int, group: int, thorough: float):
    """The pictures of one part of the run, half of them all, and their captions."""
    paths = [args.work / f"{name}-{i:03}" for i in range(math.ceil(args.pictures / 2 / SHARD))]
    for i, path in enumerate(paths):
        generic.draw_shard(path, seed, i * SHARD, SHARD, args.threads, group=group)
    pictures = generic.Pictures(paths)
    starts = range(0, len(pictures), 1024)
    jobs = [(pictures.scenes[i : i + 1024], args.work / "tokenizer", seed + i, thorough) for i in starts]
    with Pool(args.threads) as pool:
        captions = np.concatenate(pool.map(write, jobs))
    return pictures, torch.from_numpy(captions), group


@functools.lru_cache(maxsize=1)
def order_of(epoch: int, seed: int, n: int, group: int) -> np.ndarray:
    """All of n pictures in a random order that keeps relatives together."""
    groups = np.random.default_rng([seed, epoch]).permutation(n // group)
    return (groups[:, None] * group + np.arange(group)).ravel()


def train(args: argparse.Namespace, test: generic.Pictures, tokenizer: CLIPTokenizer) -> None:
    """Train from the last checkpoint, or from random weights, until `args.seen` pictures were seen."""
    checkpoint = args.work / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True, map_location="cpu") if checkpoint.exists() else {"seen": 0}
    if state["seen"] >= args.seen:
        return
    single = drawn(args, "train", args.seed, 1, 0.5)
    related = drawn(args, "related", args.seed + 2_000_000, GROUP, 0.8)
    model, head = build_model(tokenizer).to(DEVICE), build_head(tokenizer).to(DEVICE)
    parts, weights = {"model": model, "head": head, **optimizers(model, head)}, token_weights(tokenizer, args.seed)
    for name, part in parts.items() if state["seen"] else ():
        part.load_state_dict(state[name])
    print(f"{len(single[0]) + len(related[0]):,} pictures; from {state['seen']:,} to {args.seen:,} views", flush=True)
    seen, last_save, steps = state["seen"], time.time(), 0
    while seen < args.seen:
        pictures, captions, group = single if seen < SWITCH * args.seen else related
        # Seeded by position, so that a resumed run draws the batches of an uninterrupted one.
        rng, generator = random.Random(args.seed + seen), torch.Generator(DEVICE).manual_seed(args.seed + seen)
        order = order_of(seen // len(pictures), args.seed, len(pictures), group)
        rows = order[seen % len(pictures) // group * group :][: args.batch]
        which = torch.tensor([rng.randrange(CAPTIONS) for _ in rows])
        tokens = captions[rows, which].to(DEVICE).long()
        found = losses(model, head, augment(pictures.pixels(rows, DEVICE), generator, rng), tokens, weights)
        step(parts, found, lr := schedule(seen / args.seen))
        seen, steps = seen + len(rows), steps + 1
        if steps % 200 == 0:
            print(f"{seen:,} seen, learning rate {lr:.1e}, losses", *(f"{x.item():.3f}" for x in found), flush=True)
        if time.time() - last_save > 480 or seen >= args.seen:
            state = {name: part.state_dict() for name, part in parts.items()} | {"seen": seen}
            generic.write_whole(checkpoint, functools.partial(torch.save, state))
            model.eval()
            said = {**evaluate(model, test, tokenizer), "twins": twins(model, tokenizer, args.seed)}
            model.train()
            print(f"{seen:,} seen", " ".join(f"{name} {value:.3f}" for name, value in said.items()), flush=True)
            last_save = time.time()


def step(parts: dict[str, Any], found: Sequence[torch.Tensor], lr: float) -> None:
    """One step of both optimizers down the sum of the losses."""
    sum(found).backward()
    nn.utils.clip_grad_norm_([*parts["model"].parameters(), *parts["head"].parameters()], 1.0)
    for stepper in (parts["muon"], parts["adamw"]):
        for group in stepper.param_groups:
            group["lr"] = lr
        stepper.step()
        stepper.zero_grad()


def export(args: argparse.Namespace, test: generic.Pictures) -> None:
    """Write the checkpoint in the standard Hub layout, fp16 safetensors, and its numbers."""
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")  # anew: use has left padding in it
    state = torch.load(args.work / "checkpoint.pt", weights_only=True, map_location="cpu")
    model = build_model(tokenizer)
    model.load_state_dict(state["model"])
    size = {"height": generic.SIZE, "width": generic.SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": generic.SIZE}, crop_size=size)
    model.half().save_pretrained(args.target)
    CLIPProcessor(images, tokenizer).save_pretrained(args.target)
    model = model.float().eval().to(DEVICE)  # rounded to fp16: what ships is what is measured
    numbers = {**evaluate(model, test, tokenizer), "twins": twins(model, tokenizer, args.seed)}
    facts = {"parameters": model.num_parameters(), "views": state["seen"],
             "pictures": math.ceil(args.pictures / 2 / SHARD) * 2 * SHARD, "seed": args.seed}  # fmt: skip
    report = json.dumps({**facts, "test": numbers}, indent=2)
    (args.target / "pretraining.json").write_text(report + "\n")
    sizes = {"vocabulary": len(tokenizer), "n_test": len(test), "chance": 1 / len(test),
             "kinds": len(GENERIC_KINDS), "colours": len(GENERIC_COLOURS),
             "patterns": len(GENERIC_PATTERNS)}  # fmt: skip
    recalls = {name[0] + name.partition("@")[2]: value for name, value in numbers.items()}  # t1, t5 ... i10, t
    card = Path(__file__).with_name("clip_mini_card.md").read_text(encoding="utf-8")
    (args.target / "README.md").write_text(card.format(**facts, **sizes, **recalls), encoding="utf-8")
    print(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="pictures and checkpoint")
    parser.add_argument("--target", type=Path, default=CLIP_MINI, help="where to export")
    parser.add_argument("--pictures", type=int, default=262_144, help="different pictures to draw")
    parser.add_argument("--seen", type=int, default=5_000_000, help="pictures seen in training")
    parser.add_argument("--batch", type=int, default=1024, help="pictures in a step")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    test = generic.Pictures([generic.draw_shard(
        args.work / "test", args.seed + 1_000_000, 0, N_TEST, args.threads, n_items=1
    )])  # fmt: skip
    if not (args.work / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer(args.work / "tokenizer", args.seed)
    train(args, test, CLIPTokenizer.from_pretrained(args.work / "tokenizer"))
    export(args, test)


if __name__ == "__main__":
    main()
