"""Train a reranker on top of the model that finetune.py made, from the same folder, and measure it before and after.

    python rerank.py path/to/folder --model finetuned --output reranker

CLIP reads texts and pictures apart. Here it stays as it is, and a small head lets a text look at the patches of a
picture. Then: CrossEncoder("reranker", trust_remote_code=True).rank("a red mug", ["1.jpg", "2.jpg"])
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from datasets import Dataset, Image, load_dataset
from safetensors.torch import load_model, save_model
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import InputModule, Transformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.util import batch_to_device, semantic_search
from torch import nn


class Reranker(InputModule):
    """A frozen CLIP, the cosine that it gives a text and a picture (a path), and a correction that begins at zero."""

    __module__ = "rerank"  # a saved reranker names this file, of which it has a copy

    def __init__(self, clip):
        super().__init__()
        self.clip, self.kept = clip.requires_grad_(False), {}
        dim, patch_dim = clip.get_embedding_dimension(), clip.config.vision_config.hidden_size
        look = nn.MultiheadAttention(dim, 4, kdim=patch_dim, vdim=patch_dim, batch_first=True)
        judge = [nn.LayerNorm(5 * dim), nn.Linear(5 * dim, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 1)]
        nn.init.zeros_(judge[-1].weight)
        self.head = nn.ModuleDict({"look": look, "judge": nn.Sequential(*judge), "cosine": nn.Linear(1, 1)})

    def read(self, kind, items):
        """Vectors and states of texts or pictures; CLIP does not change, so each is read once and kept."""
        new = [item for item in dict.fromkeys(items) if item not in self.kept]
        for part in (new[i : i + 32] for i in range(0, len(new), 32)):
            with torch.inference_mode(False), torch.no_grad():  # what predict() reads, training will use
                features = batch_to_device(self.clip.preprocess(part), self.clip.model.device)
                names = {"input_ids", "attention_mask", "pixel_values"} & features.keys()
                output = getattr(self.clip.model, f"get_{kind}_features")(**{name: features[name] for name in names})
                vectors = nn.functional.normalize(output.pooler_output, dim=-1)
            for i, item in enumerate(part):
                self.kept[item] = vectors[i], output.last_hidden_state[i] if kind == "image" else None
        return [self.kept[item] for item in items]

    def preprocess(self, inputs, *args, **kwargs):
        if isinstance(inputs[0], str):  # texts alone, whose tokens the trainer counts for the model card
            return self.clip.preprocess(inputs)
        texts, images = (self.read(kind, [pair[i] for pair in inputs]) for i, kind in enumerate(("text", "image")))
        features = {"text": [vector for vector, _ in texts], "image": [vector for vector, _ in images]}
        features["patches"] = [states for _, states in images]
        return {name: torch.stack(rows) for name, rows in features.items()}

    def forward(self, features, **kwargs):
        text, image, patches = features["text"], features["image"], features["patches"]
        found = self.head["look"](text[:, None], patches, patches, need_weights=False)[0][:, 0]
        unit = text.shape[1] ** 0.5  # makes the entries of a vector about one
        evidence = [text * unit, image * unit, text * image * unit**2, found, found * text * unit]
        cosine = (text * image).sum(1, keepdim=True)
        return features | {"scores": self.head["cosine"](cosine) + self.head["judge"](torch.cat(evidence, dim=1))}

    def save(self, output_path, *args, **kwargs):
        self.clip.save(output_path)
        save_model(self.head, str(Path(output_path, "head.safetensors")))

    @classmethod
    def load(cls, path, **kwargs):
        module = cls(Transformer.load(path))
        load_model(module.head, cls.load_file_path(path, "head.safetensors"))
        return module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name, default in (("model", "finetuned"), ("output", "reranker"), ("epochs", 3), ("batch-size", 128)):
        parser.add_argument(f"--{name}", default=default, type=type(default), help=f"default {default}")
    args = parser.parse_args()
    rows = load_dataset("imagefolder", data_dir=args.folder, split="train").cast_column("image", Image(decode=False))
    held_out = set(json.loads(Path(args.model, "validation.json").read_text()))  # the texts that finetune.py held out
    model, pairs, samples = SentenceTransformer(args.model), [], []
    for validation in (False, True):  # a reranker learns on what it will meet: the model's own first answers
        right = {}  # text -> its pictures
        for text, path in ((row["text"], row["image"]["path"]) for row in rows):
            if text and (text in held_out) == validation:
                right.setdefault(text, []).append(path)
        pictures = sorted({path for paths in right.values() for path in paths})
        found = semantic_search(model.encode(list(right)), model.encode(pictures), top_k=20)
        for text, hits in zip(right, found, strict=True):
            answers = {pictures[hit["corpus_id"]]: hit["score"] for hit in hits}
            if validation:
                samples.append({"query": text, "positive": right[text], "documents": list(answers)})
            elif not answers.keys().isdisjoint(right[text]):  # without a right answer there is nothing to learn
                pairs += [(text, path, float(path in right[text]), cosine) for path, cosine in answers.items()]
    texts, images, labels, cosines = zip(*pairs, strict=True)
    print(f"{len(pairs)} pairs to train on, {len(samples)} lists for validation")

    torch.manual_seed(0)
    reranker = CrossEncoder(modules=[Reranker(model[0])])
    start = reranker[0].head["cosine"]  # untrained it ranks as the model does, and its mean score fits the mean label
    nn.init.constant_(start.weight, 20)
    nn.init.constant_(start.bias, torch.tensor(labels).mean().logit() - 20 * torch.tensor(cosines).mean())
    evaluator = CrossEncoderRerankingEvaluator(samples, name="validation", always_rerank_positives=False)
    before, metric = evaluator(reranker), evaluator.primary_metric
    arguments = CrossEncoderTrainingArguments(
        f"{args.output}/checkpoints", num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size,
        learning_rate=3e-4, warmup_steps=0.1, eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
        save_only_model=True, load_best_model_at_end=True, metric_for_best_model=metric, seed=0,
    )  # fmt: skip
    dataset = Dataset.from_dict({"text": texts, "image": images, "label": labels})
    loss = BinaryCrossEntropyLoss(reranker)
    CrossEncoderTrainer(reranker, arguments, dataset, loss=loss, evaluator=evaluator).train()
    print(f"{metric}: {before[metric]:.3f} before, {evaluator(reranker)[metric]:.3f} after")
    reranker.save_pretrained(args.output)
    shutil.copy(__file__, Path(args.output, "rerank.py"))


if __name__ == "__main__":
    main()
