"""Finetune a CLIP-like model on your pictures and their texts, and measure it before and after.

    python finetune.py path/to/folder --model openai/clip-vit-base-patch32 --output finetuned

The folder holds pictures and a metadata.csv: file_name,text, one row for each text. A tenth is held out to validate.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

import torch
from datasets import Dataset, Image, load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder")
parser.add_argument("--model", default="openai/clip-vit-base-patch32", help="a Hub id or a folder")
for name, default in (("output", "finetuned"), ("epochs", 5), ("batch-size", 64), ("learning-rate", 1e-5)):
    parser.add_argument(f"--{name}", default=default, type=type(default), help=f"default {default}")
args = parser.parse_args()

rows = load_dataset("imagefolder", data_dir=args.folder, split="train").cast_column("image", Image(decode=False))
pairs = [(row["text"], row["image"]["path"]) for row in rows if row["text"]]
picture = {path: hashlib.md5(Path(path).read_bytes()).hexdigest() for _, path in pairs}  # equal files are one picture
group = {}  # text or picture -> all that rows link it to, which goes to the same side of the split
for text, path in pairs:
    linked = group.get(text, {text}) | group.get(picture[path], {picture[path]})
    group |= dict.fromkeys(linked, linked)
firsts = sorted({min(linked) for linked in group.values()})
held_out = set(random.Random(0).sample(firsts, max(1, len(firsts) // 10)))
validation = [(text, path) for text, path in pairs if min(group[text]) in held_out]
train = [(text, path) for text, path in pairs if min(group[text]) not in held_out]
print(f"{len(train)} pairs to train on, {len(validation)} for validation")
relevant = {}  # text -> the pictures that answer it
for text, path in validation:
    relevant.setdefault(text, set()).add(picture[path])
corpus = {picture[path]: path for _, path in validation}
evaluator = InformationRetrievalEvaluator({text: text for text in relevant}, corpus, relevant, name="validation")
model = SentenceTransformer(args.model, model_kwargs={"dtype": "float32"})  # float16 weights do not survive training
if model[0].config.model_type.startswith("siglip"):  # trained on texts padded to full length, and wrong without
    model[0].processing_kwargs = {"text": {"padding": "max_length", "max_length": 64, "truncation": True}}
before, metric = evaluator(model), evaluator.primary_metric
arguments = SentenceTransformerTrainingArguments(
    f"{args.output}/checkpoints", num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size,
    learning_rate=args.learning_rate, warmup_steps=0.1, batch_sampler="no_duplicates", fp16=torch.cuda.is_available(),
    eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, save_only_model=True,
    load_best_model_at_end=True, metric_for_best_model=metric, logging_strategy="epoch", seed=0,
)  # fmt: skip
dataset = Dataset.from_list([{"anchor": text, "positive": path} for text, path in train])
loss = MultipleNegativesRankingLoss(model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")
SentenceTransformerTrainer(model, arguments, dataset, loss=loss, evaluator=evaluator).train()
print(f"{metric}: {before[metric]:.3f} before, {evaluator(model)[metric]:.3f} after")
model.save_pretrained(args.output)
Path(args.output, "validation.json").write_text(json.dumps(sorted(relevant)))  # rerank.py keeps the same split
